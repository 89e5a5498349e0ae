"""Checks in real jobs: what they play, what they keep, when they end a job, and how they go on after an interruption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learners.easy import Fades
from tests.learners.home import EASY, Learner
from torch import Tensor

from perdure.envs.seeds import split_of
from perdure.learners.engines.version_loading import version_weights
from perdure.learners.gradients import MicroBatch
from perdure.learners.learning_job import Interrupted, LearningJob, Retention
from perdure.learners.loops.grpo import grpo
from perdure.learners.options import OWN
from perdure.learners.selection.checking import check_and_go_on, choose_step, read_checks
from perdure.learners.selection.kept_step import read_choice, read_kept_step
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory import environments, jobs
from perdure.memory.contracts.results import Selection
from perdure.memory.errors import Diverged
from perdure.memory.leases import BootClock
from perdure.memory.processes import events
from perdure.memory.records import Version
from perdure.memory.store import Store, create_store
from perdure.memory.trajectories.manifests import manifests

TWO_TURNS = "py:tests.learners.easy:Starts?rounds=2"
FADES = "py:tests.learners.easy:Fades"
ALWAYS = "py:tests.learners.easy:Always"
SMALL = {"updates": 5, "prompts": 2, "samples": 4, "replay_samples": 2, "measure": 0, "check_every": 2, "check_episodes": 4}


def choice(learner: Learner, job: int = 1) -> Selection:
    found = read_choice(learner.store.home, job)
    assert found is not None
    return found


def probes(store: Store) -> list[Any]:
    return store.rows("SELECT * FROM episode WHERE purpose = 'probe' AND state = 'completed' ORDER BY id")


@pytest.fixture
def fading() -> Iterator[None]:
    """`Fades` can be won until after the check of step 6: four checks of 16 episodes less one, and six updates of 32."""
    Fades.left = 3 * 16 + 6 * 32
    yield
    Fades.left = 0


def kept_parameters(learner: Learner, job: int = 1) -> list[Tensor]:
    kept = read_kept_step(learner.store.home, job)
    assert kept is not None
    return list(kept.parameters)


def has_exactly(learner: Learner, version: Version, parameters: list[Tensor]) -> bool:
    """Whether the matrices of a version's adapter are these."""
    weights = version_weights(learner.store, learner.files, version)
    own = [part for pair in weights.values() if isinstance(pair, LoraPair) for part in (pair.down_RI, pair.up_OR)]
    return len(own) == len(parameters) and all(any(torch.equal(part, other) for other in parameters) for part in own)


@pytest.mark.parametrize("name", list(OWN))
def test_every_learner_is_checked_on_the_same_dev_seeds_at_each_step(llama_learner: Learner, name: str) -> None:
    store = llama_learner.store
    environments.register(store, TWO_TURNS)
    if name == "trace-sft":
        llama_learner.play_live(EASY, 12)
    version = llama_learner.learn(EASY, name, **{**SMALL, **({"prompts": 8} if name == "self-sft" else {})})
    chosen = choice(llama_learner)
    played: dict[int, set[tuple[str, int]]] = {}
    for row in probes(store):
        played.setdefault(row["step_n"], set()).add((row["environment"], row["seed"]))
        assert split_of(row["seed"]) == "dev"
        assert row["temperature"] == 1.0
    made = len(llama_learner.steps(1))
    steps = sorted({*range(0, made + 1, 2), *([made] if chosen.ended_early is None else [])})
    assert [check.step for check in chosen.checks] == sorted(played) == steps
    assert all(seeds == played[0] for seeds in played.values())
    assert len(probes(store)) == len(steps) * 8 == len(steps) * len(played[0])
    assert chosen.step in steps[1:]
    assert version.state == "candidate"
    learned = {episode for one in manifests(store, 1) for episode in one.episodes}
    assert not learned & {row["id"] for row in probes(store)}
    for check in chosen.checks:
        assert (set(check.targets), set(check.old)) == ({EASY}, {TWO_TURNS})
        scores = [row["score"] for row in probes(store) if (row["step_n"], row["environment"]) == (check.step, EASY)]
        assert check.targets[EASY].score == sum(scores) / 4


def test_a_late_collapse_leaves_the_step_before_it(llama_learner: Learner, fading: None) -> None:
    version = llama_learner.learn(FADES, replay=0.0, updates=18, prompts=8, samples=4, refill=0, check_every=3)
    chosen = choice(llama_learner)
    assert chosen.step in (3, 6)
    assert len(llama_learner.steps(1)) == 12
    assert str(chosen.ended_early).startswith("the targets collapsed: score ")
    assert has_exactly(llama_learner, version, kept_parameters(llama_learner))
    assert [event.message for event in events(llama_learner.store) if event.kind == "ended early"] == [chosen.ended_early]


def test_without_checks_the_last_step_is_the_candidate(llama_learner: Learner) -> None:
    llama_learner.learn(EASY, "sft", **{**SMALL, "check_every": 0})
    assert (choice(llama_learner).step, choice(llama_learner).checks) == (5, ())
    assert probes(llama_learner.store) == []


def test_a_job_whose_target_is_at_its_ceiling_ends_early(llama_learner: Learner) -> None:
    llama_learner.learn(ALWAYS, "sft", **{**SMALL, "check_episodes": 8})
    assert choice(llama_learner).ended_early == "the targets reached their ceiling at step 2 (score 1.00)"
    assert len(llama_learner.steps(1)) == choice(llama_learner).step == 2


def test_rounds_that_begin_anew_are_checked_at_their_ends(llama_learner: Learner) -> None:
    llama_learner.learn(EASY, "iterative-sft", restart=True, rounds=2, **{**SMALL, "check_every": 1})
    assert [check.step for check in choice(llama_learner).checks] == [0, 3, 5]


def test_a_check_that_was_interrupted_plays_only_what_is_missing(llama: ModelFiles, tmp_path: Path) -> None:
    """And the job then chooses the step that it would have chosen, with the same weights."""
    choices, hashes, counts = [], [], []
    for n in range(2):
        with create_store(tmp_path / f"home-{n}") as store:
            learner = Learner(store, llama)
            environments.register(store, TWO_TURNS)
            job, lease = learner.leased(EASY, "sft", **{"lr": 0.01, "rank": 8, **SMALL, "replay": 0.0})
            if n:
                with pytest.raises(Interrupted, match="after 2 updates"):
                    learner.run(job, lease, lambda store=store: any(row["step_n"] == 2 for row in probes(store)))
                jobs.release_job(store, lease)
                half = [row["environment"] for row in probes(store) if row["step_n"] == 2]
                assert half == [EASY] * 4, "the game of two turns was cut"
                found = jobs.lease_job(store, "another", 60.0, BootClock())
                assert found is not None
                job, lease = found
            hashes.append(learner.run(job, lease, lambda: False).hash)
            choices.append(choice(learner))
            counts.append(len(probes(store)))
    assert choices[0] == choices[1]
    assert hashes[0] == hashes[1]
    assert counts[0] == counts[1] == 4 * 8


def exploding(job: LearningJob, step: int) -> LearningJob:
    """The same job, whose loss is not a number from this step on."""

    def boom(batch: MicroBatch) -> Tensor:
        return batch.trainee.parameters[0].sum() * (float("nan") if job.progress.step >= step else 0.0)

    return replace(job, retention=Retention(extra_losses={"boom": boom}))


def test_if_an_update_diverges_the_best_step_stays_if_it_is_better_than_the_start(llama_learner: Learner) -> None:
    settings = {"updates": 18, "prompts": 8, "samples": 8, "lr": 0.01, "check_every": 3, "measure": 0}
    job = exploding(llama_learner.job([EASY], **settings), 9)
    with pytest.raises(Diverged, match="update 10 of job 1 has diverged") as failure:
        grpo(job)
    kept = kept_parameters(llama_learner)
    chosen = choose_step(job, failure.value)
    assert chosen.step in (3, 6, 9)
    assert str(chosen.ended_early).startswith("update 10 of job 1 has diverged")
    assert [event.message for event in events(job.run.store) if event.kind == "ended early"] == [chosen.ended_early]
    assert all(torch.equal(parameter, one) for parameter, one in zip(job.trainee.parameters, kept, strict=True))


def test_if_an_update_diverges_before_anything_was_gained_the_job_fails(llama_learner: Learner) -> None:
    job = exploding(llama_learner.job([EASY], updates=6, prompts=2, check_every=1, measure=0), 0)
    with pytest.raises(Diverged) as failure:
        grpo(job)
    assert len(read_checks(job)) == 1
    with pytest.raises(Diverged) as again:
        choose_step(job, failure.value)
    assert again.value is failure.value


def test_if_the_kept_weights_are_lost_the_last_step_is_the_candidate(llama_learner: Learner, fading: None) -> None:
    job = llama_learner.job([FADES], updates=18, prompts=8, samples=4, refill=0, lr=0.01, rank=8, alpha=16, check_every=3, measure=0)
    grpo(job)
    assert job.progress.step == 12
    last = [parameter.clone() for parameter in job.trainee.parameters]
    (job.run.store.home / "run" / "jobs" / "1.best.pt").write_bytes(b"text")
    assert choose_step(job).step == 12
    assert all(torch.equal(parameter, one) for parameter, one in zip(job.trainee.parameters, last, strict=True))
    assert "damaged" in {event.kind for event in events(job.run.store)}


def test_a_check_is_played_once(llama_learner: Learner) -> None:
    job = llama_learner.job([EASY], [TWO_TURNS], updates=2, check_every=1, check_episodes=4)
    assert check_and_go_on(job)
    ids = [row["id"] for row in probes(job.run.store)]
    job.tally.checked_step = None  # as in another attempt
    assert check_and_go_on(job)
    assert [row["id"] for row in probes(job.run.store)] == ids
    environments.register(job.run.store, ALWAYS)  # too late for this job's checks
    assert [set(check.old) for check in read_checks(job)] == [{TWO_TURNS}]
