"""A store with a few rows of everything, written by the functions that the product writes them with."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.memory.conftest import ADD, SORT, SetClock
from tests.results import TERMS, gate_result, learn_result, update

from perdure.memory import environments, gates, jobs, processes, stages, tasks, versions, watches
from perdure.memory.changes import Who, perform
from perdure.memory.contracts.orders import LearnOrder, Order, ProbeOrder
from perdure.memory.contracts.results import ProbeResult
from perdure.memory.errands import errand_leases, errand_queue
from perdure.memory.errands.errand_records import ErrandTerms
from perdure.memory.evidence.dev_scores import KnownScores, keep_dev_scores
from perdure.memory.evidence.item_scores import ItemMeasure, ItemScore, keep_panel_scores
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.records import Ending, EpisodePlan, EpisodeState, Lease, Pair, Purpose, Sampler, StepRef, StopReason, Turn, VersionRef
from perdure.memory.stages import Stage, StageShare
from perdure.memory.store import Store
from perdure.memory.trajectories import manifests, rewards
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.watches import EnvironmentWatch, ScoreSums

BASE = "tiny"
BASE_HASH = "hash-of-tiny"
CLOCK = SetClock()
V0 = VersionRef("v0")
ANNA = Who(name="anna", via="page")
STAGE = "all"
PANEL_SCORES: dict[ItemMeasure, ItemScore] = {
    ("sums", "sums-1", "choice"): ItemScore(0.75, "abc", "scripted"),
    ("sums", "sums-1", "strict"): ItemScore(1.0, "abc", "scripted"),
    ("texts", "texts-1", "cross_entropy"): ItemScore(3.25, "def", "scripted"),
}
DEV_SCORES = KnownScores(seeds=16, scored=15, total=7.5)
WATCH = EnvironmentWatch(
    version="v1", environment=ADD, temperature=1.0, low=0.25, high=0.75, seen=ScoreSums(tasks=2, total=1.5, squares=1.25), last_task=1
)


def fill(store: Store, with_errands: bool = True) -> None:
    """Fill a fresh store. Version v1 serves, v2 is rejected, v3 is a pinned candidate; task 3 and job 3 wait, task 5 is being played.

    A store of a schema before 10 has no errands.
    """
    for name, low, critical in ((ADD, 0.0, False), (SORT, -1.0, True)):
        environments.register(store, name, 1.0, low, 1.0, critical)
    environments.set_measured(store, ADD, 0.125, True)
    versions.add_initial(store, BASE, BASE_HASH)
    _live(store)
    _learn(store)
    _probe(store, with_errands)
    jobs.add_job(store, "third", [SORT], LearnOrder(learner="grpo"))
    for state in ("rejected", "pinned"):
        made = candidate(store)
        versions.reject(store, made) if state == "rejected" else versions.pin(store, made)
    stages.set_stages(
        store, [Stage(name=STAGE, environments=(StageShare(name=ADD, weight=2.0), StageShare(name=SORT)), members=2, order="shuffled")]
    )
    watches.write_watch(store, WATCH)
    processes.beat(store, "supervisor", 4242, "playing", "a detail")
    processes.record_event(store, "start", "supervisor", "process 4242 — “as usual”")
    processes.take_device(store, "actor", 60.0, CLOCK)
    processes.precision_for(store, "cpu", lambda: "float32")
    _foreign(store)
    for source, given in (("anna", {1: 0.25, 6: -1.0}), ("judge-2", {1: 1.0})):
        rewards.add_rewards(store, source, given)
    perform(store, lambda: ("v3", {"name": "v3"}), by=ANNA, what="version pin", arguments={"version": "v3"}, reason="é “so”", key="k-1")


def adapter(home: Path, name: str) -> tuple[str, str]:
    """A version's folder with its manifest; gives the path relative to the home, and the hash. Its weights are no weights."""
    folder = home / "versions" / name
    folder.mkdir(parents=True)
    files = {}
    for file, content in (("adapter_config.json", b"{}"), ("adapter_model.safetensors", name.encode() * 100)):
        (folder / file).write_bytes(content)
        files[file] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    text = json.dumps({"version": name, "base_model": BASE, "base_hash": BASE_HASH, "files": files})
    (folder / "manifest.json").write_text(text)
    return f"versions/{name}", hashlib.sha256(text.encode()).hexdigest()


def candidate(store: Store, lease: Lease | None = None) -> str:
    """A new candidate with its folder."""
    name = versions.next_name(store)
    path, digest = adapter(store.home, name)
    versions.add_candidate(store, lease, name, "v0", digest, path, [ADD], None if lease is None else lease.subject)
    return name


def play(
    store: Store,
    lease: Lease,
    group: str,
    rewards: Sequence[float],
    *,
    environment: str = ADD,
    seed: int = 7,
    purpose: Purpose = "live",
    sampler: Sampler = V0,
    turns: int = 1,
    state: EpisodeState = "completed",
) -> list[int]:
    """Play a group of episodes; in several turns the prompt grows. Those that are to be `running` are left so."""
    journal = StoreJournal(store, CLOCK)
    plans = [
        EpisodePlan(
            environment=environment,
            seed=seed,
            group=group,
            member=member,
            purpose=purpose,
            sampler=sampler,
            temperature=1.0,
            lease=lease,
        )
        for member in range(len(rewards))
    ]
    ids = journal.start(plans)
    prompt: tuple[int, ...] = (1, 2, 3)
    for n in range(turns):
        turn = Turn(
            prompt_ids=prompt,
            action_ids=(10 + n, 256),
            logprobs=(-0.1 * (n + 1), -2.5),
            observation=f"1 + {n}? é\n",
            action=str(10 + n),
            reward=0.0,
            sampler=sampler,
            finish="stop",
        )
        last = n == turns - 1
        journal.turns([(episode, n, replace(turn, reward=reward if last else 0.0)) for episode, reward in zip(ids, rewards, strict=True)])
        prompt = (*prompt, *turn.action_ids, 20 + n)
    reason: StopReason = {"completed": "terminated", "aborted": "interrupted", "env_error": "error"}.get(state, "terminated")  # type: ignore[assignment]
    if state != "running":
        journal.finish(
            [
                Ending(
                    episode=episode,
                    state=state,  # type: ignore[arg-type]
                    stop_reason=reason,
                    total_reward=reward,
                    success=state == "completed" and reward >= 1,
                    score=min(max(reward, 0.0), 1.0) if state == "completed" else 0.0,
                    error="it raised ValueError" if state == "env_error" else None,
                )
                for episode, reward in zip(ids, rewards, strict=True)
            ]
        )
    return ids


def leased_task(store: Store, environment: str = ADD) -> Lease:
    """A task that somebody plays. No other may be waiting."""
    tasks.add_tasks(store, environment, [7], 2, "stream", STAGE)
    ((_, lease),) = tasks.lease_tasks(store, "actor", 1, 60.0, CLOCK)
    return lease


def leased_job(store: Store, key: str, order: Order) -> Lease:
    """A job that somebody works on."""
    number = jobs.add_job(store, key, [ADD], order)
    leased = jobs.lease_job(store, f"learner-{number}", 60.0, CLOCK, number)
    assert leased is not None
    return leased[1]


def _live(store: Store) -> None:
    lease = leased_task(store)
    play(store, lease, "task-1", [1.0, 0.0])
    tasks.finish_task(store, lease)
    lease = leased_task(store, SORT)
    play(store, lease, "task-2", [0.5], environment=SORT, turns=3)
    tasks.finish_task(store, lease)
    lease = leased_task(store)
    play(store, lease, "task-3", [0.0], state="running")
    tasks.release_task(store, lease)
    waiting = tasks.lease_tasks(store, "actor", 1, 60.0, CLOCK)[0][1]
    tasks.add_tasks(store, ADD, [9], 2, "person")
    for _ in range(3):
        ((_, lease),) = tasks.lease_tasks(store, "actor", 1, 60.0, CLOCK)
        tasks.retry_task(store, lease, "it cannot be made")
    play(store, leased_task(store), "task-5", [0.0], state="running", turns=2)
    tasks.release_task(store, waiting)


def _learn(store: Store) -> None:
    lease = leased_job(store, "first", LearnOrder(learner="grpo"))
    jobs.set_job_state(store, lease, "running")
    step = StepRef(lease.subject, 0)
    learned = play(store, lease, "job-1.1-0", [1.0, 0.0], purpose="learn", sampler=step)
    learned += play(store, lease, "job-1.1-1", [1.0], environment=SORT, purpose="replay", sampler=step)
    manifests.write_manifest(store, lease, 1, learned, on_policy=True)
    manifests.write_manifest(store, lease, 2, [1, 2], on_policy=False)
    for n in (1, 2):
        jobs.add_step(store, lease, update(n, success=0.5 * n, grad_norm=float("nan")))
    made = candidate(store, lease)
    jobs.set_job_state(store, lease, "gating")
    gate = gates.start_gate(store, lease, made, "v0", "economy", TERMS)
    for version in ("v0", made):
        play(store, lease, f"gate-{gate}-{version}", [1.0], seed=2**31 + 5, purpose="gate", sampler=VersionRef(version))
    pair = Pair(
        environment=ADD,
        role="trained",
        draw=0,
        seed=2**31 + 5,
        reference="v0",
        reference_score=0.0,
        candidate_score=1.0,
        difference=1.0,
    )
    gates.add_pairs(store, lease, gate, [pair])
    keep_dev_scores(store, lease, 1.0, {(ADD, "v0"): DEV_SCORES})
    keep_panel_scores(store, lease, "v0", PANEL_SCORES.items())
    result = gate_result(gate=gate, candidate=made)
    gates.close_gate(store, lease, result)
    versions.promote(store, made, "all held", gate=gate, lease=lease, anchors=[ADD])
    jobs.finish_job(store, lease, learn_result(result, version=made), made)


def _probe(store: Store, with_errands: bool) -> None:
    lease = leased_job(store, "second", ProbeOrder())
    play(store, lease, "probe-1", [1.0], seed=2**31 + 6, purpose="probe", sampler=VersionRef("v1"))
    play(store, lease, "probe-2", [0.0], seed=2**31 + 7, purpose="probe", sampler=VersionRef("v1"), state="env_error")
    if with_errands:
        _errands(store, lease)
    jobs.finish_job(store, lease, ProbeResult(version="v1", environments={}), None)


def _errands(store: Store, job: Lease) -> None:
    """A draw that a player has played, whose episodes are pruned, and one that it holds."""
    terms = ErrandTerms(version="v1", serving="v1", purpose="probe", temperature=1.0, samples=2)
    errand_queue.queue_errands(store, job, terms, [(ADD, 2**31 + 8), (SORT, 2**31 + 9)])
    first, _ = errand_leases.lease_errands(store, "player-1", 2, 60.0, CLOCK)
    errand_leases.end_errands(store, [(first.lease, (1.0, None))])


def _foreign(store: Store) -> None:
    texts = {"observation": "1 + 1?", "action": "2", "reward": 1.0}
    tokens = {"prompt_ids": [1, 2], "action_ids": [3], "logprobs": [-0.5], "finish": "stop"}
    rows = [
        {"id": 7, "environment": "sums", "turns": [texts]},
        {"environment": "sums", "base_model": BASE, "turns": [tokens], "success": True},
    ]
    tool = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}}
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"direction": "north"}}}
    looks = {"observation": "Where is the key?", "tool_calls": [call], "reasoning_content": "I must look."}
    agents = [{"environment": "robot", "instructions": "Look first.", "success": True, "tools": [tool], "turns": [looks]}]
    said = [
        {"role": role, "content": text} for role, text in (("user", "1 + 1?"), ("assistant", "2"), ("user", "Sure?"), ("assistant", "Yes."))
    ]
    with tempfile.TemporaryDirectory() as folder:
        for label, form, imported in (
            ("another pipeline", "perdure", rows),
            ("an agent", "perdure", agents),
            ("a chat", "openai", [{"messages": said}]),
        ):
            file = Path(folder) / "traces.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in imported))
            import_file(store, file, label, form)
