"""The gate's decision: may this candidate serve? Nothing is played or stored here (`gating.py` does that), and no model is known.

What a promotion certifies, and no more: at confidence 1 - alpha for this gate, the mean loss over the earlier environments is below
`pool_margin`, no earlier environment lost its own margin or more against its anchor, and at least one trained environment improved on
the serving version. Each of these is a test of its own; a promotion needs all of them, so that P(promote | any one is false) <= alpha
without a correction for their number (intersection-union). Whatever is missing counts against the candidate.

**Why looking after every round is allowed.** Each test is a gambler's wealth that cannot grow in expectation while its null is true
(betting; Waudby-Smith & Ramdas 2024). The stake is fixed before the round is seen. P(wealth ever >= 1/alpha) <= alpha (Ville), at
whatever round one stops; the stops for futility can only reject. For the same reason a gate can be continued: feeding the stored
differences again gives the stored wealth, and further rounds go on from there.

**Who votes is fixed before the first pair.** An environment whose anchor scores at or below its margin cannot show a loss of that
margin: it is vacuous, has no vote and is left out of the pool, where its certain ties would hide the losses of others. A trained one
whose serving version scores above `ceiling` is not asked for a gain. Both are decided by scores on *dev* seeds, never by the gate's
own pairs: leaving an environment out because its pairs came out low would select on the very differences that are tested, while any
choice that does not depend on the probe seeds leaves every test at its alpha. A dev score may be off by chance; that moves who is
protected, not the error rate, and the scope is printed with the verdict. An environment without a dev score votes and is asked for a
gain. At a ceiling nothing is left to gain but much to lose: a trained one there that has no anchor able to protect it is held to the
serving version.

Left out: e-LOND, the ladder of further candidates after a rejection, naming regressions by e-BH, and monitoring after promotion.
`evidence.py` puts what a gate found into numbers for people; `rates.py` simulates its error rates and power.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import exp, log, log1p
from typing import NamedTuple

from perdure.memory.errors import InputError
from perdure.memory.json_value import to_json
from perdure.memory.records import Decision, Role

PRIOR_WEIGHT, PRIOR_SQUARE = 10, 0.25
"""The second moment of a difference is taken as .25 at first; ten pairs weigh as much as that guess."""
STAKE_CAP = 0.8
"""No pair can take more than this share of the wealth."""
DESIGN_GAIN = 0.2
FEW_EARLIER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """How much loss is too much, and how long to look. Margins are in points of score, from 0 to 1."""

    profile: str
    pool_margin: float
    task_margin: float
    nmax: int
    """Rounds; a round is one seed of each environment that is still open."""
    nmin: int = 6
    alpha: float = 0.05
    critical_margin: float = 0.10
    """Of an environment marked critical, in place of `task_margin`."""
    nmax_critical: int = 128
    """Where a critical environment votes, `nmax` is at least this: so tight a margin cannot be shown in fewer rounds."""
    futile_pool: float = 0.02
    futile_task: float = 0.003
    futile_gain: float = 0.02
    ceiling: float = 0.95
    max_voids: int = 20

    def __post_init__(self) -> None:
        for name in ("pool_margin", "task_margin", "critical_margin", "alpha", "futile_pool", "futile_task", "futile_gain", "ceiling"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"gate setting {name} is {getattr(self, name)}; it must lie between 0 and 1")
        if not 1 <= self.nmin <= self.nmax:
            raise InputError(f"gate settings nmin {self.nmin} and nmax {self.nmax}: 1 <= nmin <= nmax is needed")

    @property
    def need(self) -> float:
        """The wealth (an e-value) that a test must reach."""
        return 1 / self.alpha


PROFILES: dict[str, GateSettings] = {
    "economy": GateSettings(profile="economy", pool_margin=0.10, task_margin=0.30, nmax=48),
    "standard": GateSettings(profile="standard", pool_margin=0.07, task_margin=0.25, nmax=96),
    "strict": GateSettings(profile="strict", pool_margin=0.05, task_margin=0.25, nmax=128),
}


class Comparison(NamedTuple):
    """The candidate against one reference in one environment: a sequence of pairs."""

    environment: str
    role: Role
    reference: str
    """The version compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Who is judged how, fixed before the first pair. `settings` are those in force, after the rule for few environments."""

    settings: GateSettings
    hold: Mapping[Comparison, float]
    """Margin of each comparison that must not lose."""
    pool: tuple[Comparison, ...]
    """The earlier ones of `hold`: what the pooled test is about. Empty where there is only one."""
    gain: tuple[Comparison, ...]
    """Trained ones that are asked for a gain."""
    vacuous: Mapping[str, float] = field(default_factory=dict)
    """Environments whose anchor cannot show a loss, with its score on dev seeds."""
    at_ceiling: Mapping[str, float] = field(default_factory=dict)
    """Trained ones that are not asked for a gain, with the serving version's score on dev seeds."""

    def text(self) -> str:
        """All of it as JSON text: two scopes judge alike if and only if their texts are equal."""
        return to_json(
            {
                **asdict(self.settings),
                "hold": [{**comparison._asdict(), "margin": margin} for comparison, margin in self.hold.items()],
                "pool": [comparison.environment for comparison in self.pool],
                "gain": [comparison._asdict() for comparison in self.gain],
                "vacuous": dict(self.vacuous),
                "at_ceiling": dict(self.at_ceiling),
            }
        )


def fix_scope(
    settings: GateSettings,
    *,
    serving: str,
    anchors: Mapping[str, str],
    trained: Collection[str] = (),
    critical: Collection[str] = (),
    anchor_scores: Mapping[str, float] | None = None,
    serving_scores: Mapping[str, float] | None = None,
) -> Scope:
    """Decide who votes, from scores on dev seeds only (see the module's text).

    `anchors` names the anchor of every environment that has one; those not in `trained` are the earlier ones. With three or fewer earlier
    ones that vote, the margins and `nmax` of the economy profile are in force; with one, no pool.
    """
    anchor_scores, serving_scores = anchor_scores or {}, serving_scores or {}
    earlier = [name for name in anchors if name not in trained]

    def margin(name: str, settings: GateSettings) -> float:
        return min(settings.task_margin, settings.critical_margin) if name in critical else settings.task_margin

    def protects(name: str, settings: GateSettings) -> bool:
        return anchor_scores.get(name, 1.0) > margin(name, settings)

    # Economy's margins are the widest, so that going over to them never brings a vote back: the count stays at three or fewer.
    few = PROFILES["economy"]
    if settings.profile != few.profile and sum(protects(name, settings) for name in earlier) <= FEW_EARLIER:
        settings = replace(settings, profile=few.profile, pool_margin=few.pool_margin, task_margin=few.task_margin, nmax=few.nmax)
    voting = [Comparison(name, "earlier", anchors[name]) for name in earlier if protects(name, settings)]
    hold = {comparison: margin(comparison.environment, settings) for comparison in voting}
    at_ceiling = {name: serving_scores[name] for name in trained if serving_scores.get(name, 0.0) > settings.ceiling}
    for name in trained:
        if name in anchors and protects(name, settings):
            # Pairs with a serving version that is also the anchor serve both tests.
            role: Role = "trained" if anchors[name] == serving else "earlier"
            hold[Comparison(name, role, anchors[name])] = margin(name, settings)
        elif name in at_ceiling:
            hold[Comparison(name, "trained", serving)] = margin(name, settings)
    if any(comparison.environment in critical for comparison in hold):
        settings = replace(settings, nmax=max(settings.nmax, settings.nmax_critical))
    held = {comparison.environment for comparison in hold}
    return Scope(
        settings=settings,
        hold=hold,
        pool=tuple(voting) if len(voting) > 1 else (),
        gain=tuple(Comparison(name, "trained", serving) for name in trained if name not in at_ceiling),
        vacuous={name: anchor_scores[name] for name in anchors if name not in held},
        at_ceiling=at_ceiling,
    )


class NonInferiority:
    """Wealth against 'the mean difference is -margin or worse'. The stake is the Kelly bet for no change at all."""

    def __init__(self, margin: float) -> None:
        self.margin, self.cap = margin, STAKE_CAP / (1 - margin)
        self.n, self.squares, self.log_wealth = 0, 0.0, 0.0

    def update(self, differences: Sequence[float]) -> None:
        """One round. One stake for all of it: independent sources at mean m on average multiply to at most (1 + stake (m + margin))^K."""
        margin = self.margin
        second_moment = (PRIOR_WEIGHT * PRIOR_SQUARE + self.squares) / (PRIOR_WEIGHT + self.n)
        stake = min(margin / (margin * margin + second_moment), self.cap)
        for d in differences:
            self.log_wealth += log1p(stake * (d + margin))
            self.squares += d * d
        self.n += len(differences)


class Superiority:
    """Wealth against 'the mean difference is 0 or worse'. The stake is the Kelly bet for a gain of `DESIGN_GAIN`."""

    def __init__(self) -> None:
        self.n, self.squares, self.log_wealth = 0, 0.0, 0.0

    def update(self, d: float) -> None:
        second_moment = (PRIOR_WEIGHT * PRIOR_SQUARE + self.squares) / (PRIOR_WEIGHT + self.n)
        self.log_wealth += log1p(min(DESIGN_GAIN / (DESIGN_GAIN * DESIGN_GAIN + second_moment), STAKE_CAP) * d)
        self.squares += d * d
        self.n += 1


class GateDecision:
    """One gate, fed round by round: play one valid pair of each of `open`, hand the differences to `round`, until there is a `verdict`.

    `limit` is the number of rounds after which it ends without a decision (default: `nmax`).
    """

    def __init__(self, scope: Scope, limit: int | None = None) -> None:
        self.scope = scope
        self.limit = scope.settings.nmax if limit is None else limit
        self.rounds = 0
        self.verdict: Decision | None = None
        self.reason = ""
        self.history: dict[Comparison, list[float]] = {comparison: [] for comparison in (*scope.hold, *scope.gain)}
        self.hold = {comparison: NonInferiority(margin) for comparison, margin in scope.hold.items()}
        self.held: set[Comparison] = set()
        self.pool = NonInferiority(scope.settings.pool_margin)
        self.pool_rounds = 0
        self.pool_held = not scope.pool
        self.gain = {comparison: Superiority() for comparison in scope.gain}
        self.gain_shown = not scope.gain
        self.open = tuple(self.history)
        """What the next round needs one valid pair of; empty once there is a verdict."""
        if not self.open:
            self.end("inconclusive", "no environment is able to vote, so that nothing could be shown")

    def round(self, differences: Mapping[Comparison, float]) -> Decision | None:
        """Take in one round: candidate minus reference, in [-1, 1], for exactly those that are open. A failed candidate is -1."""
        if self.verdict is not None:
            raise ValueError(f"this gate has ended: {self.verdict}")
        if differences.keys() != set(self.open):
            raise ValueError(f"a round needs one difference of each of {self.open}, not of {tuple(differences)}")
        for comparison, d in differences.items():
            if not -1 <= d <= 1:
                raise ValueError(f"difference {d} of {comparison} is not in [-1, 1]")
            self.history[comparison].append(d)
        self.rounds += 1
        self._bet(differences)
        if self.rounds >= self.scope.settings.nmin:
            self._decide()
        if self.verdict is None and self.rounds >= self.limit:
            self.end("inconclusive", self._not_shown())
        self._reopen()
        return self.verdict

    def end(self, verdict: Decision, reason: str) -> None:
        """Stop here. From outside only to give up: every promotion is decided by `round`."""
        self.verdict, self.reason, self.open = verdict, reason, ()

    def _bet(self, differences: Mapping[Comparison, float]) -> None:
        if not self.pool_held:
            self.pool.update([differences[comparison] for comparison in self.scope.pool])
            self.pool_rounds += 1
        for comparison, test in self.hold.items():
            if comparison not in self.held:
                test.update((differences[comparison],))
        if not self.gain_shown:
            for comparison, gain in self.gain.items():
                gain.update(differences[comparison])

    def _decide(self) -> None:
        settings = self.scope.settings
        need = log(settings.need)
        for comparison, test in self.hold.items():
            if comparison not in self.held:
                if test.log_wealth >= need:
                    self.held.add(comparison)
                elif test.log_wealth <= log(settings.futile_task):
                    return self.end("reject", f"{self._mean_of(comparison)} fell against {comparison.reference}")
        if not self.pool_held:
            if self.pool.log_wealth >= need:
                self.pool_held = True
            elif self.pool.log_wealth <= log(settings.futile_pool):
                fell = [comparison for comparison in self.scope.pool if sum(self.history[comparison]) < 0]
                worst = sorted(fell, key=lambda comparison: sum(self.history[comparison]))[:3]
                return self.end("reject", f"the earlier environments fell together, most: {', '.join(map(self._mean_of, worst))}")
        if not self.gain_shown:
            # The mean of e-values is an e-value, whatever their dependence: at least one improved.
            self.gain_shown = self.gain_wealth() >= settings.need
            if not self.gain_shown and all(gain.log_wealth <= log(settings.futile_gain) for gain in self.gain.values()):
                return self.end("reject", f"no gain: {', '.join(map(self._mean_of, self.gain))}")
        if self.pool_held and self.gain_shown and len(self.held) == len(self.hold):
            shown = "all held" if self.hold else "nothing earlier to hold"
            self.end("promote", f"{shown}, gain shown" if self.gain else f"{shown}; no gain was asked for")
        return None

    def _reopen(self) -> None:
        if self.verdict is not None:
            return
        wanted = dict.fromkeys(comparison for comparison in self.hold if comparison not in self.held)
        if not self.pool_held:
            wanted.update(dict.fromkeys(self.scope.pool))  # one that has passed is sampled on until the pool has
        if not self.gain_shown:
            wanted.update(dict.fromkeys(self.gain))
        self.open = tuple(wanted)

    def _not_shown(self) -> str:
        missing = [self._mean_of(comparison) for comparison in self.hold if comparison not in self.held]
        if not self.pool_held:
            missing.append("the earlier environments together")
        if missing:
            return f"not shown to hold in {self.rounds} rounds: {', '.join(missing)}"
        return f"all held, gain not shown yet in {self.rounds} rounds: {', '.join(map(self._mean_of, self.gain))}"

    def _mean_of(self, comparison: Comparison) -> str:
        values = self.history[comparison]
        return f"{comparison.environment} ({sum(values) / len(values):+.2f} over {len(values)} pairs)"

    def gain_wealth(self) -> float:
        """The e-value of 'at least one trained environment improved'."""
        return sum(e_value(gain.log_wealth) for gain in self.gain.values()) / len(self.gain)


def e_value(log_wealth: float) -> float:
    """Wealth from its logarithm."""
    return exp(min(log_wealth, 700.0))  # more than a float can hold is as good as this
