"""Jobs that are stopped in the middle and taken up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.learners.home import EASY, Learner

from perdure.learners.loops.learner_table import LEARNERS
from perdure.learners.selection.kept_step import read_choice
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory import environments
from perdure.memory.store import create_store
from perdure.memory.trajectories.manifests import manifests
from perdure.memory.versions import promote

TWO_TURNS = "py:tests.learners.easy:Starts?rounds=2"
SMALL = {"updates": 6, "prompts": 2, "samples": 4, "replay_samples": 2, "measure": 0}


def played(learner: Learner) -> dict[str, int]:
    rows = learner.store.rows("SELECT purpose, count(*) AS n FROM episode WHERE state = 'completed' GROUP BY purpose")
    return {row["purpose"]: row["n"] for row in rows}


@pytest.mark.learning
@pytest.mark.parametrize("name", LEARNERS)
def test_an_interrupted_job_goes_on_from_its_last_update(llama_learner: Learner, name: str) -> None:
    environments.register(llama_learner.store, TWO_TURNS)
    if name == "trace-sft":
        llama_learner.play_live(EASY, 12)
    settings = {"self-sft": {"prompts": 8}, "iterative-sft": {"rounds": 2}}.get(name, {})
    llama_learner.interrupted(EASY, name, after=2, **{**SMALL, **settings})
    steps = llama_learner.steps(1)
    assert [step.update for step in steps] == [1, 2, 3, 4, 5, 6]
    # one group of targets in a batch: there is a step if it taught something
    taught = {
        "grpo": lambda groups: groups.groups > groups.dropped_groups,
        "reinforce": lambda groups: groups.reward > 0,
        "iterative-sft": lambda groups: groups.success > 0,
    }.get(name, lambda groups: True)
    assert [step.lr for step in steps] == pytest.approx([0.01 * (1 - n / 6) * taught(step.groups) for n, step in enumerate(steps)])
    assert any(step.lr for step in steps)
    rows = llama_learner.store.rows("SELECT attempt, n FROM step WHERE job = 1 ORDER BY attempt, n")
    assert [tuple(row) for row in rows] == [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5), (2, 6)]
    written = manifests(llama_learner.store, 1)
    assert [(one.attempt, one.n) for one in written] == [(1, 1), (1, 2), (2, 3), (2, 4), (2, 5), (2, 6)]
    groups = llama_learner.store.rows("""SELECT "group", count(*) AS n, count(DISTINCT member) AS members FROM episode GROUP BY "group" """)
    assert all(row["n"] == row["members"] <= 8 for row in groups)
    if name in ("grpo", "reinforce", "iterative-sft", "sdft"):
        used = [episode for one in written for episode in one.episodes]
        assert len(used) == len(set(used))
    else:
        assert len({step.lessons for step in steps}) == 1


@pytest.mark.parametrize(
    ("name", "settings"),
    [("sft", {}), ("sft", {"style": "styled", "samples": 8}), ("self-sft", {}), ("trace-sft", {}), ("sft", {"tuning": "full"})],
)
def test_a_resumed_job_on_fixed_data_ends_with_the_weights_of_an_uninterrupted_one(
    llama: ModelFiles, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    """The same demonstrations, the same start's answers, the same order, the same checks; nothing of the start is played again."""
    hashes, counts, choices = [], [], []
    for n in range(2):
        with create_store(tmp_path / f"home-{n}") as store:
            learner = Learner(store, llama)
            if name == "trace-sft":
                learner.play_live(EASY, 6)
            small = {**SMALL, "updates": 4, "prompts": 4, "check_every": 1, **settings}
            made = learner.interrupted(EASY, name, after=2, **small) if n else learner.learn(EASY, name, **small)
            hashes.append(made.hash)
            counts.append(played(learner))
            choices.append(read_choice(store.home, 1))
    assert hashes[0] == hashes[1]
    assert counts[0] == counts[1]
    assert counts[0]["probe"] % 16 == 0
    assert choices[0] == choices[1] is not None


def test_a_resumed_job_keeps_its_data_and_its_serving_version_when_another_version_serves(llama: ModelFiles, tmp_path: Path) -> None:
    """Traces that came meanwhile are not learned, nor the old ones in another order, and KL is measured to the version that served then."""
    hashes, drift = [], []
    for n in range(2):
        with create_store(tmp_path / f"home-{n}") as store:
            learner = Learner(store, llama)
            other = learner.learn(EASY, "sft", updates=1)
            learner.play_live(EASY, 6)
            small = {**SMALL, "updates": 4, "prompts": 4, "measure": 4, "kl": 0.1}

            def meanwhile(learner: Learner = learner, other: str = other.name) -> None:
                promote(learner.store, other, "a test wants it")
                learner.play_live(EASY, 6)

            if n:
                made = learner.interrupted(EASY, "trace-sft", after=2, meanwhile=meanwhile, **small)
            else:
                made = learner.learn(EASY, "trace-sft", **small)
            hashes.append(made.hash)
            steps = learner.steps(2)
            drift.append([(step.drift.kl_base_new, step.kl_loss) for step in steps])
            assert [step.drift.kl_serving_new for step in steps] == [step.drift.kl_base_new for step in steps]
            assert [step.data_staleness for step in steps] == [0.0] * 4
    assert hashes[0] == hashes[1]
    assert drift[0] == drift[1]


@pytest.mark.parametrize("name", ["grpo", "self-sft"])
def test_a_job_that_was_stopped_before_its_first_update_begins_anew(llama_learner: Learner, name: str) -> None:
    llama_learner.interrupted(EASY, name, after=0, **{**SMALL, "updates": 2, "prompts": 8})
    assert [step.update for step in llama_learner.steps(1)] == [1, 2]


def test_a_job_that_had_made_all_its_updates_only_leaves_its_candidate(llama_learner: Learner) -> None:
    version = llama_learner.interrupted(EASY, "sft", after=2, **{**SMALL, "updates": 3})
    assert version.state == "candidate"
    assert len(llama_learner.steps(1)) == 3
