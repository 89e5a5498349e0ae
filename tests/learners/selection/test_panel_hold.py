"""A candidate that would break a limit of the capability panel goes only part of the way from the serving version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.learners.conftest import copied, random_adapter, trainee_of
from tests.learners.home import EASY, Learner
from tests.learners.panel.panel_files import NOTES, SKY, SNOW, TEXTS, skill

from perdure.learners.panel.panel_items import Skill
from perdure.learners.panel.panel_limits import compare, items_of, refusal_of
from perdure.learners.panel.panel_pass import PanelWork, scores_of
from perdure.learners.panel.stored_scores import lacking
from perdure.learners.retention.interpolation import interpolate
from perdure.learners.selection.best_step import unchecked
from perdure.learners.selection.kept_step import read_choice
from perdure.learners.selection.panel_hold import LEAST, PanelHold, hold_panel
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.evidence.item_scores import panel_scores
from perdure.memory.records import StepRef


@pytest.fixture
def skills(tmp_path: Path) -> tuple[Skill, ...]:
    return skill(tmp_path, items=(SKY, SNOW)), skill(tmp_path, TEXTS, NOTES)


def holding(learner: Learner, skills: tuple[Skill, ...], run: Any) -> PanelHold:
    return PanelHold(scoring=PanelWork(run=run, versions=learner.versions, say=lambda line: None), skills=skills)


def refused(learner: Learner, hold: PanelHold, weights: Weights) -> str | None:
    """What the gate would say of these weights beside v0."""
    trial = StepRef(99, 1)
    learner.engine.load(trial, weights)
    scores = scores_of(hold.scoring, trial, "a trial", hold.skills)
    learner.engine.unload(trial)
    known = panel_scores(learner.store, "v0")
    return refusal_of(compare("x", "v0", "v0", {"v0": known, "x": scores}, items_of(hold.skills)))


def test_what_holds_goes_the_whole_way(llama_learner: Learner, skills: tuple[Skill, ...]) -> None:
    job = llama_learner.job([EASY])
    learned = copied(random_adapter(trainee_of(llama_learner.files, rank=4), 1, 0.001).weights())
    held = hold_panel(job, holding(llama_learner, skills, job.run), unchecked(1), learned, lambda part: {})
    assert (held.chosen, held.weights) == (unchecked(1), learned)
    assert {key[0] for key in held.scores} == {"colours", "notes"}


def test_what_would_be_refused_goes_back_as_far_as_it_must(llama_learner: Learner, skills: tuple[Skill, ...]) -> None:
    job = llama_learner.job([EASY])
    hold = holding(llama_learner, skills, job.run)
    learned = copied(random_adapter(trainee_of(llama_learner.files, rank=4), 1, 0.05).weights())
    held = hold_panel(job, hold, unchecked(1), learned, lambda part: interpolate({}, learned, part))
    share, lost = held.chosen.share, refused(llama_learner, hold, learned)
    assert LEAST <= share < 1
    assert lost is not None
    assert held.chosen.reason.endswith(f"; it goes {share:g} of the way from v0: at its end {lost}")
    assert refused(llama_learner, hold, interpolate({}, learned, share)) is None
    assert refused(llama_learner, hold, interpolate({}, learned, min(1.0, 2.5 * share))) is not None, "not much farther back than it must"
    assert StepRef(job.id, 1) not in llama_learner.engine


def test_what_holds_at_no_share_stays_as_it_was_learned(llama_learner: Learner, skills: tuple[Skill, ...]) -> None:
    job = llama_learner.job([EASY])
    learned = copied(random_adapter(trainee_of(llama_learner.files, rank=4), 1, 3.0).weights())
    held = hold_panel(job, holding(llama_learner, skills, job.run), unchecked(1), learned, lambda part: interpolate({}, learned, part))
    assert (held.chosen, held.weights) == (unchecked(1), learned)


@pytest.mark.parametrize("settings", [{}, {"hold_panel": False}])
def test_a_job_makes_a_candidate_that_holds_and_the_gate_need_not_score_it_again(
    llama_learner: Learner, skills: tuple[Skill, ...], settings: Mapping[str, Any]
) -> None:
    made = llama_learner.learn(EASY, "grpo", hold=skills, updates=6, lr=0.03, **settings)
    chosen = read_choice(llama_learner.store.home, 1)
    assert chosen is not None
    assert (chosen.share < 1) == (not settings)
    left = lacking(llama_learner.store, made.name, skills, "choice", llama_learner.engine.numerics)
    assert (not left) == (not settings)
    if not settings:
        three = {name: panel_scores(llama_learner.store, name) for name in ("v0", made.name)}
        assert refusal_of(compare(made.name, "v0", "v0", three, items_of(skills))) is None
        kept = panel_scores(llama_learner.store, made.name)
        sampler = llama_learner.versions.load(made.name)
        hold = holding(llama_learner, skills, llama_learner.job([EASY]).run)
        assert {key: one.score for key, one in scores_of(hold.scoring, sampler, "it", skills).items()} == pytest.approx(
            {key: one.score for key, one in kept.items()}, rel=1e-4
        )


def test_weights_tuned_in_full_go_back_too(llama_learner: Learner, skills: tuple[Skill, ...]) -> None:
    made = llama_learner.learn(EASY, "grpo", hold=skills, updates=3, lr=0.003, tuning="full")
    chosen = read_choice(llama_learner.store.home, 1)
    assert chosen is not None
    assert LEAST <= chosen.share < 1
    three = {name: panel_scores(llama_learner.store, name) for name in ("v0", made.name)}
    assert refusal_of(compare(made.name, "v0", "v0", three, items_of(skills))) is None
