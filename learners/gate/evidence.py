"""The evidence of a gate in numbers.

Every test has its pairs, wins and losses, the mean difference with an interval, its wealth, and the wealth that it needed. Pairs played
after a test had passed (for the pool, or for another test on the same pairs) count in the mean, but not in the wealth.
`anchor_wealth` counts all pairs, also those that were played after the verdict (`election.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

from perdure.learners.gate.decision import FUTILE_GAIN, FUTILE_POOL, FUTILE_TASK, GateDecision, e_value
from perdure.learners.gate.election import anchor_wealth
from perdure.learners.gate.intervals import mean_interval
from perdure.learners.gate.scope import CEILING, Comparison, GateSettings
from perdure.memory.contracts.results import Evidence, Leg, LegState

INTERVAL_LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedScores:
    """Mean scores of the pairs of one comparison."""

    reference_score: float | None = None
    candidate_score: float | None = None
    candidate_failures: int = 0
    voids: int = 0


NOT_PLAYED = PlayedScores()


def evidence(
    gate: GateDecision,
    played: Mapping[tuple[str, str], PlayedScores] | None = None,
    *,
    history: Mapping[Comparison, Sequence[float]] | None = None,
    regressed: tuple[str, ...] = (),
) -> Evidence:
    """The evidence so far, test by test. `played` has the scores behind the differences, by environment and reference.

    `history` has all differences, those after the verdict included; without it they are those of the gate.
    """
    played = played or {}
    scope, settings = gate.scope, gate.scope.settings
    pairs = {**gate.history, **(history or {})}
    anchored = {comparison: anchor_wealth(pairs[comparison]) for comparison in scope.anchors if pairs.get(comparison)}
    trained_names = {comparison.environment for comparison in gate.gain} | scope.at_ceiling.keys()
    environments = {
        comparison.environment: _leg(
            [(d,) for d in gate.history[comparison]],
            state=_state(comparison in gate.passed, test.log_wealth, FUTILE_TASK, gate),
            log_wealth=test.log_wealth,
            settings=settings,
            margin=test.margin,
            comparison=comparison,
            scores=played.get((comparison.environment, comparison.reference), NOT_PLAYED),
            note="trained: held outside the pool" if comparison.environment in trained_names else None,
            beats_anchor=anchored.get(comparison),
        )
        for comparison, test in gate.hold.items()
    }
    of_vacuous = {comparison.environment: comparison for comparison in scope.anchors}
    for name, score in scope.vacuous.items():
        note = f"its anchor scores {score:.2f} on dev seeds: too low to show a loss of the margin"
        environments[name] = Leg(state="vacuous", note=note, anchor_wealth=anchored.get(of_vacuous[name]))
    trained = {
        comparison.environment: _leg(
            [(d,) for d in gate.history[comparison]],
            state=_state(e_value(test.log_wealth) >= settings.need, test.log_wealth, FUTILE_GAIN, gate),
            log_wealth=test.log_wealth,
            settings=settings,
            comparison=comparison,
            scores=played.get((comparison.environment, comparison.reference), NOT_PLAYED),
            beats_anchor=anchored.get(comparison),
        )
        for comparison, test in gate.gain.items()
    }
    for name, score in scope.at_ceiling.items():
        trained[name] = Leg(state="not asked", note=f"the serving version scores {score:.2f} on dev seeds, above {CEILING}")
    pooled = _leg(
        list(zip(*(gate.history[comparison][: gate.pool_rounds] for comparison in scope.pool), strict=True)),
        state=_state(gate.pool_passed, gate.pool.log_wealth, FUTILE_POOL, gate),
        log_wealth=gate.pool.log_wealth,
        settings=settings,
        margin=settings.pool_margin,
    )
    return Evidence(
        environments=environments,
        pooled=pooled if scope.pool else None,
        gain=_gain(gate, trained),
        trained=trained,
        interval=f"time-uniform, {INTERVAL_LEVEL:.0%}",
        regressed=regressed,
    )


def _gain(gate: GateDecision, trained: Mapping[str, Leg]) -> Leg:
    settings = gate.scope.settings
    if not gate.gain:
        return Leg(state="not asked", note="every trained environment is at its ceiling" if trained else "no environment was trained")
    futile = gate.verdict == "reject" and all(test.log_wealth <= log(FUTILE_GAIN) for test in gate.gain.values())
    test = _leg(
        list(zip(*(gate.history[comparison] for comparison in gate.gain), strict=False)),  # all are played until the gain is shown
        state="passed" if gate.gain_shown else "failed" if futile else "not shown",
        log_wealth=0.0,
        settings=settings,
    )
    return replace(test, wealth=gate.gain_wealth())


def _state(passed: bool, log_wealth: float, futile: float, gate: GateDecision) -> LegState:
    if passed:
        return "passed"
    return "failed" if gate.rounds >= gate.scope.settings.nmin and log_wealth <= log(futile) else "not shown"


def _leg(
    rounds: Sequence[Sequence[float]],
    *,
    state: LegState,
    log_wealth: float,
    settings: GateSettings,
    margin: float | None = None,
    comparison: Comparison | None = None,
    scores: PlayedScores = NOT_PLAYED,
    note: str | None = None,
    beats_anchor: float | None = None,
) -> Leg:
    values = [d for differences in rounds for d in differences]
    return Leg(
        state=state,
        role=comparison.role if comparison else None,
        reference=comparison.reference if comparison else None,
        margin=margin,
        n=len(values),
        wins=sum(d > 0 for d in values),
        losses=sum(d < 0 for d in values),
        mean_difference=sum(values) / len(values) if values else None,
        interval=mean_interval(rounds, low=-1.0, high=1.0, level=INTERVAL_LEVEL),
        wealth=e_value(log_wealth),
        need=settings.need,
        anchor_wealth=beats_anchor,
        note=note,
        reference_score=scores.reference_score,
        candidate_score=scores.candidate_score,
        candidate_failures=scores.candidate_failures,
        voids=scores.voids,
    )
