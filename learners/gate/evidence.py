"""What a gate found, in the numbers a person needs to agree with it or not.

Every test has its pairs, wins and losses, the mean difference with an interval, and its wealth beside what that had to reach. Pairs that
were played after a test had passed (for the pool, or for another test on the same pairs) count in the mean, and no longer in the wealth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import log
from typing import Any, Literal

from perdure.learners.gate.decision import Comparison, Gate, GateSettings, e_value
from perdure.learners.gate.intervals import mean_interval
from perdure.memory.records import Role

INTERVAL_LEVEL = 0.95

State = Literal["passed", "failed", "not shown", "vacuous", "not asked"]
"""`failed`: at or under the futility bound. `not shown`: neither that nor enough when the gate ended, which does not promote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """What one test found, in the numbers a person needs. Those of a test that was not held are None."""

    state: State
    role: Role | None = None
    reference: str | None = None
    margin: float | None = None
    n: int = 0
    """Pairs."""
    wins: int = 0
    losses: int = 0
    mean_difference: float | None = None
    interval: tuple[float, float] | None = None
    """Of the mean difference: a time-uniform confidence interval at 95 %, valid at the moment the gate stopped."""
    wealth: float | None = None
    """The e-value; `need` is what it had to reach."""
    need: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Every test of a gate."""

    environments: Mapping[str, Test]
    """Whether each held: the earlier ones, and trained ones against their anchor."""
    pooled: Test | None
    """None where fewer than two earlier environments vote."""
    gain: Test
    """Over the trained environments; `trained` has each by itself, which need not pass alone."""
    trained: Mapping[str, Test]

    def as_json(self) -> dict[str, Any]:
        return {
            "environments": {name: asdict(test) for name, test in self.environments.items()},
            "pooled": asdict(self.pooled) if self.pooled else {"state": "not asked", "note": "fewer than two earlier environments vote"},
            "gain": {**asdict(self.gain), "environments": {name: asdict(test) for name, test in self.trained.items()}},
            "interval": f"time-uniform, {INTERVAL_LEVEL:.0%}",
        }


def evidence(gate: Gate) -> Evidence:
    """What the gate has seen so far, test by test."""
    scope, settings = gate.scope, gate.scope.settings
    learned = {comparison.environment for comparison in gate.gain} | scope.at_ceiling.keys()
    environments = {
        comparison.environment: _test(
            [(d,) for d in gate.history[comparison]],
            state=_state(comparison in gate.held, test.log_wealth, settings.futile_task, gate),
            log_wealth=test.log_wealth,
            settings=settings,
            margin=test.margin,
            comparison=comparison,
            note="trained: held outside the pool" if comparison.environment in learned else None,
        )
        for comparison, test in gate.hold.items()
    }
    for name, score in scope.vacuous.items():
        environments[name] = Test(state="vacuous", note=f"its anchor scores {score:.2f} on dev seeds: too low to show a loss of the margin")
    trained = {
        comparison.environment: _test(
            [(d,) for d in gate.history[comparison]],
            state=_state(e_value(test.log_wealth) >= settings.need, test.log_wealth, settings.futile_gain, gate),
            log_wealth=test.log_wealth,
            settings=settings,
            comparison=comparison,
        )
        for comparison, test in gate.gain.items()
    }
    for name, score in scope.at_ceiling.items():
        trained[name] = Test(state="not asked", note=f"the serving version scores {score:.2f} on dev seeds, above {settings.ceiling}")
    pooled = _test(
        list(zip(*(gate.history[comparison][: gate.pool_rounds] for comparison in scope.pool), strict=True)),
        state=_state(gate.pool_held, gate.pool.log_wealth, settings.futile_pool, gate),
        log_wealth=gate.pool.log_wealth,
        settings=settings,
        margin=settings.pool_margin,
    )
    return Evidence(environments=environments, pooled=pooled if scope.pool else None, gain=_gain(gate, trained), trained=trained)


def _gain(gate: Gate, trained: Mapping[str, Test]) -> Test:
    settings = gate.scope.settings
    if not gate.gain:
        return Test(state="not asked", note="every trained environment is at its ceiling" if trained else "no environment was trained")
    futile = gate.verdict == "reject" and all(test.log_wealth <= log(settings.futile_gain) for test in gate.gain.values())
    test = _test(
        list(zip(*(gate.history[comparison] for comparison in gate.gain), strict=False)),  # they are asked together until it is shown
        state="passed" if gate.gain_shown else "failed" if futile else "not shown",
        log_wealth=0.0,
        settings=settings,
    )
    return replace(test, wealth=gate.gain_wealth())


def _state(passed: bool, log_wealth: float, futile: float, gate: Gate) -> State:
    if passed:
        return "passed"
    return "failed" if gate.rounds >= gate.scope.settings.nmin and log_wealth <= log(futile) else "not shown"


def _test(
    rounds: Sequence[Sequence[float]],
    *,
    state: State,
    log_wealth: float,
    settings: GateSettings,
    margin: float | None = None,
    comparison: Comparison | None = None,
    note: str | None = None,
) -> Test:
    values = [d for differences in rounds for d in differences]
    return Test(
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
        note=note,
    )
