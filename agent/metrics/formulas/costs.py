"""What a run cost, and how far it moved from the base. Pure functions of its facts and its divergences."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.agent.metrics.formulas.accuracy import mean_of
from perdure.agent.metrics.measured_run import MeasuredRun
from perdure.agent.metrics.observation import BASE, StageFacts

REFUSED = ("reject", "inconclusive")
"""Verdicts after which the version before serves on."""


def total_updates(facts: Sequence[StageFacts]) -> float | None:
    """Optimizer updates over all stages, of candidates that were refused too. None without facts."""
    return float(sum(fact.updates for fact in facts)) if facts else None


def total_tokens(facts: Sequence[StageFacts]) -> float | None:
    """Tokens sampled or learned from, over all stages."""
    return float(sum(fact.tokens for fact in facts)) if facts else None


def total_seconds(facts: Sequence[StageFacts]) -> float | None:
    """Of learning, over all stages; machines differ, so compare within one study."""
    return sum(fact.seconds for fact in facts) if facts else None


def last_divergence(run: MeasuredRun, measure: str) -> float | None:
    """The mean of `kl_new` or `kl_old` over subjects in nats a token, of the version that the run came to.

    That is the last stage that the gate did not refuse: its KL at the end, else at the check of its last update; a check of another update
    is of another version, and does not count. None if it has neither; 0 if all was refused. Without the number of its updates the last
    check is the end.
    KL(policy || base), on the policy's own answers to prompts of the targets and of old environments. Shenfeld et al. 2025 (2509.04259)
    found that KL(base || policy) on new prompts predicts forgetting; in 2510.18874, table 2, it does so only weakly (r = .52).
    """
    book = run.book(measure)
    if book is None:
        return None
    updates = {fact.stage: fact.updates for fact in run.facts}
    refused = {fact.stage for fact in run.facts if fact.verdict in REFUSED}
    stage = max(stage for stage in {BASE, *updates, *(stage for stage, _ in [*book.curves, *book.matrix.scores])} - refused)
    if stage == BASE:
        return 0.0
    found = dict(book.matrix.scores)
    for place, points in book.curves.items():
        end = updates.get(place[0], 0) or points[-1].update
        for point in points:
            if point.update == end:
                found.setdefault(place, point.score)
    return mean_of(score for (at, _), score in found.items() if at == stage)


def change_of_measure(run: MeasuredRun, measure: str) -> float | None:
    """The mean over subjects of a measure at the end minus that of the base: of `cross_entropy`, in nats a token, above 0 is worse."""
    book = run.book(measure)
    if book is None:
        return None
    return mean_of(book.matrix.change(subject, BASE, book.matrix.stages) for subject in book.matrix.subjects())
