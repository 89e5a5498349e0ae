"""The rules of the fault suite find what they are for: a good home keeps them all, and each breach is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from tests.faults.acknowledged import Acknowledgements, AcknowledgingJournal
from tests.faults.invariants import AT_REST, RULES, Findings, Witness
from tests.results import TERMS, gate_result, learn_result

from perdure.memory import environments, gates, jobs, tasks, versions
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.history.archive import archive
from perdure.memory.leases import BootClock
from perdure.memory.records import Ending, EpisodePlan, Lease, Pair, Purpose, Sampler, StepRef, Turn, VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.trajectories import manifests
from perdure.memory.trajectories.journal import StoreJournal

ADD = "perdure:add"
EPISODES = 'INSERT INTO episode (environment, seed, "group", member, purpose, task, attempt, version, temperature, state, started_at)'
SHARD = "INSERT INTO shard (place, state, sha256, size_bytes, runs, episodes, turns, made_at)"
STEPS = "INSERT INTO step (job, attempt, n, diagnostics, made_at)"

BREACHES = {
    "an episode is running under no lease": f"{EPISODES} VALUES ('{ADD}', 1, 'new', 0, 'live', 1, 1, 'v0', 1, 'running', 1)",
    "a task is leased by nobody, or owned without a lease": "UPDATE task SET owner = 'actor:1'",
    "a done task lacks members": "UPDATE task SET members = 3",
    "the turns of an episode have gaps": "UPDATE episode SET turns = turns + 1",
    "a turn is in the database and in a shard": "INSERT INTO shelved (episode, shard, tokens, chain) VALUES (1, 1, 1, 1)",
    "a shard does not have the turns that it should": f"{SHARD} VALUES ('history/x', 'whole', '', 0, '[]', 1, 1, 1)",
    "a success rate is not what the episodes come to": "UPDATE rate SET mixed_groups = mixed_groups + 1",
    "an episode that was not completed is scored": "UPDATE episode SET state = 'aborted', score = 1 WHERE id = 1",
    "an episode was learned from that was not completed, or was played to judge": "UPDATE episode SET purpose = 'gate' WHERE job = 1",
    "a pair was scored without its completed episodes": "UPDATE pair SET seed = seed + 1",
    "not exactly one version serves": "UPDATE version SET state = 'retired'",
    "the last move leads to another version than the one that serves": "DELETE FROM move WHERE to_version = 'v1'",
    "a version was promoted by a gate without its verdict": "UPDATE gate SET verdict = 'inconclusive'",
    "a learning job that is done lacks an update, or has one twice": f"{STEPS} VALUES (1, 1, 2, '{{}}', 1)",
    "a verdict let a version serve that was not moved to": "UPDATE move SET gate = NULL",
    "a verdict refused a version that is not rejected": "UPDATE gate SET verdict = 'reject'",
    "a learning job with a verdict is not done": "UPDATE job SET state = 'failed'",
    "a row names another that is not there": "DELETE FROM environment",
    "the file is damaged": "UPDATE episode SET score = 7",
    "something is running in a home at rest": f"{EPISODES} VALUES ('{ADD}', 1, 'new', 0, 'live', 1, 1, 'v0', 1, 'running', 1)",
    "a task is leased in a home at rest": "UPDATE task SET state = 'leased', owner = 'actor:1'",
    "the device is held in a home at rest": "INSERT INTO device (name, owner, lease_until) VALUES ('device', 'actor:1', 5)",
}


def play(store: Store, journal: AcknowledgingJournal, lease: Lease, purpose: Purpose, sampler: Sampler, seed: int) -> list[int]:
    """Two episodes of one turn, both completed."""
    plans = [
        EpisodePlan(
            environment=ADD,
            seed=seed,
            group=f"{purpose} {sampler} {seed}",
            member=member,
            purpose=purpose,
            sampler=sampler,
            temperature=1.0,
            lease=lease,
        )
        for member in range(2)
    ]
    ids = journal.start(plans)
    turn = Turn(
        prompt_ids=(1, 2),
        action_ids=(3, 4),
        logprobs=(-0.5, -1.0),
        observation="1 + 1?",
        action="2",
        reward=1.0,
        sampler=sampler,
        finish="stop",
    )
    journal.turns([(episode, 0, turn) for episode in ids])
    journal.finish(
        [Ending(episode=one, state="completed", stop_reason="terminated", total_reward=1.0, success=True, score=1.0) for one in ids]
    )
    return ids


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A home in which a task was played, and a job has learned, gated, and promoted v1."""
    with create_store(tmp_path / "home") as store:
        environments.register(store, ADD)
        versions.add_initial(store, "tiny", "abc")
        journal = AcknowledgingJournal(StoreJournal(store, BootClock()), tmp_path / "acknowledged")
        tasks.add_tasks(store, ADD, [7], 2, "stream")
        ((_, lease),) = tasks.lease_tasks(store, "actor:1", 1, 60.0, BootClock())
        play(store, journal, lease, "live", VersionRef("v0"), 7)
        tasks.finish_task(store, lease)

        jobs.add_job(store, "k", [ADD], LearnOrder(learner="grpo"))
        leased = jobs.lease_job(store, "learner", 60.0, BootClock())
        assert leased is not None
        job = leased[1]
        manifests.write_manifest(store, job, 1, play(store, journal, job, "learn", StepRef(job.subject, 0), 8), True)
        (store.home / "versions" / "v1").mkdir()
        (store.home / "versions" / "v1" / "weights").write_bytes(b"weights")
        manifest = json.dumps({"files": {"weights": {"sha256": sha256(b"weights").hexdigest()}}})
        (store.home / "versions" / "v1" / "manifest.json").write_text(manifest)
        digest = sha256(manifest.encode()).hexdigest()
        versions.add_candidate(store, job, "v1", "v0", digest, "versions/v1", [ADD], job.subject)
        gate = gates.start_gate(store, job, "v1", "v0", "economy", TERMS)
        for version in ("v0", "v1"):
            play(store, journal, job, "gate", VersionRef(version), 9)
        pair = Pair(
            environment=ADD, role="trained", draw=0, seed=9, reference="v0", reference_score=1.0, candidate_score=1.0, difference=0.0
        )
        gates.add_pairs(store, job, gate, [pair])
        gates.close_gate(store, job, gate_result(gate=gate))
        versions.promote(store, "v1", "it holds", gate=gate, lease=job)
        jobs.finish_job(store, job, learn_result(None), "v1")
        yield store


@pytest.fixture
def witness(store: Store, tmp_path: Path) -> Witness:
    return Witness(Acknowledgements(tmp_path / "acknowledged"))


def test_a_good_home_keeps_every_rule(store: Store, witness: Witness) -> None:
    assert witness.examine(store, at_rest=True) == Findings()
    assert len(witness.acknowledged.turns) == len(witness.acknowledged.endings) == 8


def test_every_rule_is_tried() -> None:
    assert BREACHES.keys() == (RULES | AT_REST).keys()


@pytest.mark.parametrize("rule", BREACHES)
def test_a_breach_is_told(store: Store, witness: Witness, rule: str) -> None:
    for pragma in ("foreign_keys = OFF", "ignore_check_constraints = ON"):
        store.conn.execute(f"PRAGMA {pragma}")
    with store.write() as conn:
        conn.execute(BREACHES[rule])
    store.conn.execute("PRAGMA ignore_check_constraints = OFF")
    told = witness.examine(store, at_rest=True).broken
    assert any(line.startswith(rule) for line in told), told


@pytest.mark.parametrize("sabotage", ["DELETE FROM turn WHERE episode = 1", "UPDATE turn SET action_ids = zeroblob(8) WHERE episode = 1"])
def test_an_acknowledged_turn_that_is_gone_or_another_is_lost(store: Store, witness: Witness, sabotage: str) -> None:
    with store.write() as conn:
        conn.execute(sabotage)
    assert witness.examine(store).lost == 1


def test_turns_in_shards_are_compared_too(store: Store, witness: Witness) -> None:
    archive(store, 1e11, lambda line: None)
    assert store.rows("SELECT count(*) FROM turn")[0][0] == 0
    assert witness.examine(store, at_rest=True) == Findings()
    for shard in (store.home / "history").iterdir():
        shard.unlink()
    assert witness.examine(store).lost == 8


def test_an_ending_that_was_taken_back_is_told(store: Store, witness: Witness) -> None:
    with store.write() as conn:
        conn.execute("UPDATE episode SET state = 'aborted', success = 0, score = 0 WHERE id = 1")
    assert "the end of episode 1 and 0 more is not what was acknowledged" in witness.examine(store).broken


def test_a_member_completed_twice_and_an_episode_in_two_batches_are_counted(store: Store, witness: Witness) -> None:
    with store.write() as conn:
        conn.execute("DROP INDEX episode_one_completed_a_member")
        conn.execute("DROP INDEX manifest_once_on_policy")
        conn.execute(
            f"""{EPISODES} SELECT environment, seed, "group", member, purpose, task, 1, 'v0', 1, 'completed', 1 FROM episode WHERE id = 1"""
        )
        conn.execute(
            "INSERT INTO manifest (job, attempt, n, episode, on_policy) SELECT job, attempt, n + 1, episode, 1 FROM manifest LIMIT 1"
        )
    found = witness.examine(store)
    assert (found.twice, found.doubled) == (1, 1)


def test_files_and_names_of_versions_are_looked_at(store: Store, witness: Witness) -> None:
    assert witness.examine(store).broken == ()
    (store.home / "versions" / "v1" / "weights").write_bytes(b"Weights")
    assert witness.examine(store).broken == ("the files of v1 are not what its row says",)
    with store.write() as conn:
        conn.execute("UPDATE version SET hash = 'another' WHERE name = 'v0'")
    assert "the name v0 was used for two versions" in witness.examine(store).broken


def test_only_whole_lines_of_the_side_file_count(tmp_path: Path) -> None:
    path = tmp_path / "acknowledged"
    said = Acknowledgements(path)
    said.read()
    assert said.turns == {}
    path.write_text("7 1.5 3 0 99\n7 1.6 3 = completed\n7 1.7 3")
    said.read()
    assert (said.turns, said.endings, said.times) == ({(3, 0): 99}, {3: "completed"}, [(7, 1.5)])
    with path.open("a") as file:
        file.write(" 1 98\n")
    said.read()
    assert said.turns[3, 1] == 98
