"""Claims that a study's file states before it is run, tested in their order at .05. Pure.

Each is about the mean over seeds of the difference of two arms, seed by seed (with several streams their mean), by a one-sided t test. In a
fixed order each claim has the whole .05, because the first that is not shown ends the tests (Maurer, Hothorn & Lehmacher 1995; Westfall &
Krishen 2001). A claim is refused if it cannot be tested: fewer than `LEAST_SEEDS` seeds, or an arm that has not the matched gain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from perdure.agent.metrics.seed_intervals import chance_of_more, estimate, seeds_needed
from perdure.agent.studies.grid.grid_file import ClaimSection
from perdure.memory.json_value import Document

ALPHA = 0.05
LEAST_SEEDS = 3
"""With two, a t test at .05 asks for a difference of 4.5 standard deviations."""

Verdict = Literal["holds", "not shown", "refused"]
RunKey = tuple[int, str]
"""Seed and stream."""
ByRun = Mapping[str, Mapping[RunKey, float]]
"""Of each arm, by run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimVerdict:
    """A claim and what became of it."""

    claim: str
    verdict: Verdict
    why: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    """Seeds."""
    p: float | None = None

    def as_json(self) -> Document:
        return {
            "claim": self.claim,
            "verdict": self.verdict,
            "estimate": self.estimate,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "p": self.p,
            "why": self.why,
        }


def in_words(claim: ClaimSection) -> str:
    """'grpo - self-sft > 0 (drop)'."""
    sign, bound = (">", claim.more_than) if claim.more_than is not None else ("<", claim.less_than)
    return f"{claim.first} - {claim.second} {sign} {bound:g} ({claim.of.replace('_', ' of the ')})"


def judge_claims(
    claims: Sequence[ClaimSection], values: Mapping[str, ByRun], left_out: Mapping[str, Collection[str]]
) -> list[ClaimVerdict]:
    """All claims in order. `values` has the arms' values for each `of`, `left_out` the streams on which an arm has not the matched gain."""
    found: list[ClaimVerdict] = []
    stopped: str | None = None
    for claim in claims:
        made = _tested(claim, values.get(claim.of, {}), left_out, stopped)
        found.append(made)
        if made.verdict != "holds" and stopped is None:
            stopped = made.claim
    return found


def _tested(claim: ClaimSection, values: ByRun, left_out: Mapping[str, Collection[str]], stopped: str | None) -> ClaimVerdict:
    words, both = in_words(claim), (claim.first, claim.second)
    first, second = ({key: value for key, value in values.get(arm, {}).items() if _is_in(key, both, left_out)} for arm in both)
    by_seed: dict[int, list[float]] = {}
    for seed, stream in first.keys() & second.keys():
        by_seed.setdefault(seed, []).append(first[seed, stream] - second[seed, stream])
    differences = [fmean(by_seed[seed]) for seed in sorted(by_seed)]
    n = len(differences)
    away = [arm for arm in both if left_out.get(arm)]
    if away and not n:
        return ClaimVerdict(claim=words, verdict="refused", why=f"{' and '.join(away)}: not comparable at the matched gain", n=n)
    if n < 2:
        return ClaimVerdict(claim=words, verdict="refused", why=f"{n} seeds with both arms: it needs {LEAST_SEEDS} at least", n=n)
    shown, spread = estimate(differences), stdev(differences)
    needed = seeds_needed(spread, claim.effect)
    many = f"{max(needed, LEAST_SEEDS)} seeds" if needed is not None else "more seeds than 10,000"
    why = f"a difference of {claim.effect:g} needs {many} (power .8, with the spread seen, {spread:.3f})"
    if n < LEAST_SEEDS:
        verdict: Verdict = "refused"
        p, why = None, f"{n} seeds: {why}"
    else:
        p = _chance(claim, differences)
        verdict = "holds" if p is not None and p <= ALPHA and stopped is None else "not shown"
        if stopped is not None:
            why = f"not tested: '{stopped}' comes before it and does not hold"
        elif verdict == "holds":
            why = f"p = {p:.3f}"
        elif p is None:
            why = "the seeds do not differ: there is no spread to judge by"
    return ClaimVerdict(claim=words, verdict=verdict, why=why, estimate=shown.value, low=shown.low, high=shown.high, n=n, p=p)


def _is_in(key: RunKey, arms: Sequence[str], left_out: Mapping[str, Collection[str]]) -> bool:
    return not any(key[1] in left_out.get(arm, ()) for arm in arms)


def _chance(claim: ClaimSection, differences: Sequence[float]) -> float | None:
    """p of the one-sided test."""
    if claim.more_than is not None:
        return chance_of_more(differences, claim.more_than)
    assert claim.less_than is not None
    return chance_of_more([-difference for difference in differences], -claim.less_than)
