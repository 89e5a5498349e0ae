"""What a run cost, and how far it moved from the base. Pure functions of its facts and its divergences."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.agent.metrics.formulas.accuracy import mean_of
from perdure.agent.metrics.measured_run import MeasuredRun
from perdure.agent.metrics.observation import StageFacts


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
    """The mean of `kl_new` or `kl_old` over subjects in nats a token, at the last stage that has it: at its end, else at its last check.

    KL(policy || base), on the policy's own answers to prompts of the targets and of old environments. Shenfeld et al. 2025 (2509.04259)
    found that KL(base || policy) on new prompts predicts forgetting; in 2510.18874, table 2, it does so only weakly (r = .52).
    """
    book = run.book(measure)
    if book is None:
        return None
    found = {place: points[-1].score for place, points in book.curves.items() if points} | dict(book.matrix.scores)
    last = max((stage for stage, _ in found), default=None)
    return mean_of(score for (stage, _), score in found.items() if stage == last)


def change_of_measure(run: MeasuredRun, measure: str) -> float | None:
    """The mean over subjects of a measure at the end minus that of the base: of `cross_entropy`, in nats a token, above 0 is worse."""
    book = run.book(measure)
    if book is None:
        return None
    matrix = book.matrix
    pairs = [(matrix.at(0, subject), matrix.at(matrix.stages, subject)) for subject in matrix.subjects()]
    return mean_of(after - before for before, after in pairs if before is not None and after is not None)
