"""Jobs that learn from live play alone: which groups, until it is used up, with ratios for older versions, and after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.learners.home import Learner
from tests.learners.test_live_batches import LIVE, OLD, OTHER, SAMPLING, SMALL, TARGET, batches, live_names, names, played

from perdure.learners.option_parsing import parse_options
from perdure.learners.sampling.batch_sampling import sample
from perdure.learners.sampling.live_batches import choose_live
from perdure.learners.selection.kept_step import read_choice
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.processes import events
from perdure.memory.store import create_store
from perdure.memory.trajectories.manifests import manifests
from perdure.memory.versions import promote


@pytest.mark.parametrize("name", SAMPLING)
def test_live_play_alone_is_learned_from_until_it_is_used_up(llama_learner: Learner, name: str) -> None:
    store = llama_learner.store
    llama_learner.play_live(TARGET, 5)
    llama_learner.play_live(OLD, 3)
    version = llama_learner.learn(TARGET, name, **{**SMALL, "updates": 18}, **LIVE)
    newest, made = live_names(store), llama_learner.steps(1)
    assert [names(batch) for batch in batches(store, 1)] == [set(newest[:2]), set(newest[2:4]), set(newest[4:])]
    assert sum(len(names(batch, OLD)) for batch in batches(store, 1)) == 3
    assert played(store, 1) == {}
    assert [step.sampled_tokens for step in made] == [0, 0, 0]
    assert [step.data_staleness for step in made] == [0, 0, 0]
    assert [one.on_policy for one in manifests(store, 1)] == [True, False, False]
    said = f"the live play of {TARGET} was used up after 3 of 18 updates (from=live)"
    assert [event.message for event in events(store) if event.kind == "ended early"] == [said]
    choice = read_choice(store.home, 1)
    assert choice is not None
    assert (choice.step, choice.ended_early) == (3, said)
    assert version.state == "candidate"
    rates = [step.lr for step in made if step.lr == pytest.approx(0.01)]
    assert len(rates) <= 1, "the rate falls over the updates that are made"


def test_live_play_of_older_versions_has_ratios_and_a_bound(llama_learner: Learner) -> None:
    store = llama_learner.store
    llama_learner.play_live(TARGET, 5)
    first = llama_learner.learn(TARGET, "sft", **{**SMALL, "updates": 4})
    promote(store, first.name, "a test wants it")
    llama_learner.play_live(TARGET, 3)
    llama_learner.learn(TARGET, "reinforce", **{**SMALL, "updates": 9, "lr": 1e-6, "prompts": 2, "samples": 8}, **LIVE)
    made = llama_learner.steps(2)
    assert [step.data_staleness for step in made] == [0, 0.5, 1, 1]
    assert [step.staleness for step in made] == [0, None, None, None]
    assert made[0].ratios.ratio_max == pytest.approx(1, abs=2e-3)
    apart = [step.ratios.mismatch_kl for step in made[2:] if step.lr]
    assert min(apart) > 0.01, "the weights hardly moved: it is the version that is another"
    llama_learner.learn(TARGET, "grpo", **{**SMALL, "updates": 9, "prompts": 2}, **LIVE, staleness=0)
    assert [step.data_staleness for step in llama_learner.steps(3)] == [0, 0]


def test_targets_share_live_play_until_both_are_used_up(llama_learner: Learner) -> None:
    for name, tasks in ((TARGET, 1), (OTHER, 3)):
        llama_learner.play_live(name, tasks)
    job = llama_learner.job([TARGET, OTHER], **{**SMALL, "updates": 9}, **LIVE)
    made = choose_live(llama_learner.store, job.id, "v0", job.options, targets=[TARGET, OTHER], old=[], target_groups=2)
    job.progress.chosen = made.episodes
    assert made.updates == 3
    found = [[group[0].environment for group in sample(job, 2).target] for _ in range(made.updates)]
    assert found == [[TARGET, OTHER], [OTHER], [OTHER]]


def test_without_live_play_a_job_that_learns_from_it_alone_says_so(llama_learner: Learner) -> None:
    llama_learner.play_live(OLD, 2)
    with pytest.raises(RuntimeFailure, match=r"no live task was played at temperature 1\.0 .* or learn with from=both"):
        llama_learner.learn(TARGET, "grpo", **SMALL, **LIVE)
    assert llama_learner.nothing_was_left()


def test_stored_replay_beside_live_batches_is_an_error() -> None:
    with pytest.raises(InputError, match="leave stored out"):
        parse_options("grpo", {"from": "live", "stored": 0.5})
    with pytest.raises(InputError, match="option 'from' belongs to grpo, reinforce, iterative-sft, sdft"):
        parse_options("trace-sft", {"from": "live"})
    with pytest.raises(InputError, match="option from='old'"):
        parse_options("grpo", {"from": "old"})


def test_a_resumed_job_takes_what_was_not_pruned_meanwhile(llama_learner: Learner) -> None:
    """And it makes the updates that it was to make: those without a group are no step."""
    store = llama_learner.store
    llama_learner.play_live(TARGET, 6)
    newest = live_names(store)

    def meanwhile() -> None:
        ids = [row["id"] for row in store.rows("""SELECT id FROM episode WHERE "group" = ?""", (newest[2],))]
        with store.write() as conn:
            for table, column in (("turn", "episode"), ("episode", "id")):
                conn.execute(f"DELETE FROM {table} WHERE {column} BETWEEN ? AND ?", (ids[0], ids[-1]))

    llama_learner.interrupted(TARGET, "grpo", after=1, meanwhile=meanwhile, **{**SMALL, "prompts": 2, "updates": 9}, **LIVE)
    assert [names(batch) for batch in batches(store, 1)] == [set(newest[:2]), set(newest[3:5]), {newest[5]}]


@pytest.mark.parametrize("name", ["grpo", "reinforce", "sdft"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_resumed_job_on_live_play_ends_with_the_weights_of_an_uninterrupted_one(
    llama: ModelFiles, tmp_path: Path, name: str, tuning: str
) -> None:
    """Bit for bit, although live play went on in between; the checks are played again from their seeds."""
    hashes, taken = [], []
    for n in range(2):
        with create_store(tmp_path / f"home-{n}") as store:
            learner = Learner(store, llama)
            for environment, tasks in ((TARGET, 6), (OLD, 4)):
                learner.play_live(environment, tasks)
            options = {**SMALL, "updates": 9, "check_every": 1, "check_episodes": 4, "measure": 4, "tuning": tuning, **LIVE}

            def meanwhile(learner: Learner = learner) -> None:
                for environment in (TARGET, OLD):
                    learner.play_live(environment, 2)

            if n:
                version = learner.interrupted(TARGET, name, after=2, meanwhile=meanwhile, **options)
            else:
                version = learner.learn(TARGET, name, **options)
            hashes.append(version.hash)
            taken.append([one.episodes for one in manifests(store, 1)])
    assert taken[0] == taken[1]
    assert len(taken[0]) == 3
    assert hashes[0] == hashes[1]
