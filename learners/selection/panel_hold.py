"""How far a candidate goes from the serving version, so that it holds the capability panel.

The panel's limits are thresholds on exact scores (`panel/panel_limits.py`): a candidate beyond one is refused whatever it gained. So that
the gain is not thrown away with it, the candidate moves back towards the serving version until no limit is broken. Wortsman et al.
(2022, "Robust fine-tuning of zero-shot models") found that a fine-tuned model that is moved back gets back most of what it lost elsewhere
before it loses its gain. On the way skills change almost evenly (docs/measurements.md), so the share is computed from the scores at its
end, and then tried.

Without this, lives came to a stop. If the panel holds at no share that is tried, the candidate stays as it was learned, and the gate
refuses it with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from perdure.learners.learning_job import LearningJob
from perdure.learners.panel.panel_items import Skill
from perdure.learners.panel.panel_limits import compare, even_share, items_of, refusal_of
from perdure.learners.panel.panel_pass import PanelWork, score_version, scores_of
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.contracts.results import Selection
from perdure.memory.evidence.item_scores import ItemMeasure, ItemScore, panel_scores
from perdure.memory.records import StepRef
from perdure.memory.versions import INITIAL

LESS = (0.95, 0.7, 0.45)
"""What is tried, one after the other, of the share at which the panel would just hold if skills changed evenly."""
LEAST = 0.05
"""A candidate that goes less of the way is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelHold:
    """The means to score weights on the panel."""

    scoring: PanelWork
    skills: tuple[Skill, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The weights of a candidate."""

    weights: Weights
    chosen: Selection
    """With the share, and why it is less than 1."""
    scores: Mapping[ItemMeasure, ItemScore]
    """Of these weights on the panel."""


def hold_panel(job: LearningJob, hold: PanelHold, chosen: Selection, learned: Weights, between: Callable[[float], Weights]) -> Held:
    """Find how far the candidate may go. `between` gives the weights at a share of the way from the serving version to `learned`.

    Raises `Interrupted`.
    """
    scoring, store, serving = hold.scoring, job.run.store, job.progress.serving
    for name in dict.fromkeys((INITIAL, serving)):
        score_version(scoring, name, hold.skills, "choice")
    known, asked = {name: panel_scores(store, name) for name in (INITIAL, serving)}, items_of(hold.skills)

    def scored(share: float, weights: Weights) -> tuple[Mapping[ItemMeasure, ItemScore], PanelResult]:
        trial = StepRef(job.id, chosen.step)
        job.engine.load(trial, weights)
        try:
            scores = scores_of(scoring, trial, f"step {chosen.step} at {share:g} of the way", hold.skills)
        finally:
            job.engine.unload(trial)
        return scores, compare("", serving, INITIAL, {**known, "": scores}, asked)

    scores, panel = scored(1.0, learned)
    whole = Held(weights=learned, chosen=chosen, scores=scores)
    lost = refusal_of(panel)
    if lost is None:
        return whole
    for part in LESS:
        share = round(part * even_share(panel), 2)
        if share < LEAST:
            break
        weights = between(share)
        scores, there = scored(share, weights)
        if refusal_of(there) is None:
            reason = f"{chosen.reason}; it goes {share:g} of the way from {serving}: at its end {lost}"
            return Held(weights=weights, chosen=replace(chosen, share=share, reason=reason), scores=scores)
    return whole
