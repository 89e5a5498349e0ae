"""Who is judged how: margins and limits, and which environments are tested. Fixed before the first pair of a gate, from dev seeds only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import NamedTuple

from perdure.memory.errors import InputError
from perdure.memory.json_value import to_json
from perdure.memory.records import Role

FEW_EARLIER = 3
"""With at most this many earlier environments that vote, the margins of the economy profile apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Margins of loss, in points of score from 0 to 1, and limits on rounds."""

    profile: str
    pool_margin: float
    task_margin: float
    """Of one environment."""
    nmax: int
    """Most rounds; a round is one pair of each open comparison."""
    nmin: int = 6
    alpha: float = 0.05
    critical_margin: float = 0.10
    """Instead of `task_margin`, for environments marked critical."""
    nmax_critical: int = 128
    """If a critical environment votes, `nmax` is at least this: fewer rounds cannot show so tight a margin."""
    futile_pool: float = 0.02
    futile_task: float = 0.003
    futile_gain: float = 0.02
    ceiling: float = 0.95
    max_voids: int = 20

    def __post_init__(self) -> None:
        for name in ("pool_margin", "task_margin", "critical_margin", "alpha", "futile_pool", "futile_task", "futile_gain", "ceiling"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"gate setting {name} is {getattr(self, name)}; it must be between 0 and 1")
        if not 1 <= self.nmin <= self.nmax:
            raise InputError(f"gate settings nmin {self.nmin} and nmax {self.nmax}: they must satisfy 1 <= nmin <= nmax")

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
    """The candidate and one reference version in one environment."""

    environment: str
    role: Role
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is tested, fixed before the first pair. `settings` already follow the rule for few environments."""

    settings: GateSettings
    hold: Mapping[Comparison, float]
    """The margin of each comparison in which the score must not fall."""
    pool: tuple[Comparison, ...]
    """The comparisons of the pooled test: the earlier ones of `hold`; empty if there is only one."""
    gain: tuple[Comparison, ...]
    """Comparisons in trained environments that need a gain."""
    vacuous: Mapping[str, float] = field(default_factory=dict)
    """Environments with an anchor that scores too low to show a loss, which are not tested, with its score on dev seeds."""
    at_ceiling: Mapping[str, float] = field(default_factory=dict)
    """Trained environments that need no gain, with the serving version's score on dev seeds."""

    def text(self) -> str:
        """As JSON text; two scopes with equal texts test the same."""
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
    """Decide which environments vote, from scores on dev seeds only.

    `anchors` has the anchor of each environment with one; those not in `trained` are the earlier ones. With three or fewer earlier ones
    that vote, the margins and `nmax` of the economy profile apply. If only one earlier environment votes, there is no pooled test. An
    environment without a dev score votes and needs a gain. A trained environment at its ceiling must not fall against the serving version,
    unless its anchor is tested already.
    """
    anchor_scores, serving_scores = anchor_scores or {}, serving_scores or {}
    earlier = [name for name in anchors if name not in trained]

    def margin(name: str, settings: GateSettings) -> float:
        return min(settings.task_margin, settings.critical_margin) if name in critical else settings.task_margin

    def protects(name: str, settings: GateSettings) -> bool:
        return anchor_scores.get(name, 1.0) > margin(name, settings)

    # Economy's margins are the widest, so a switch to them adds no votes: there are still three or fewer.
    few = PROFILES["economy"]
    if settings.profile != few.profile and sum(protects(name, settings) for name in earlier) <= FEW_EARLIER:
        settings = replace(settings, profile=few.profile, pool_margin=few.pool_margin, task_margin=few.task_margin, nmax=few.nmax)
    voting = [Comparison(name, "earlier", anchors[name]) for name in earlier if protects(name, settings)]
    hold = {comparison: margin(comparison.environment, settings) for comparison in voting}
    at_ceiling = {name: serving_scores[name] for name in trained if serving_scores.get(name, 0.0) > settings.ceiling}
    for name in trained:
        if name in anchors and protects(name, settings):
            # The role says whose pairs are used: "trained" those against the serving version, which the test of the gain shares, "earlier"
            # those against an anchor. So a trained environment with an older anchor is "earlier" here, but not in the pool.
            role: Role = "trained" if anchors[name] == serving else "earlier"
            hold[Comparison(name, role, anchors[name])] = margin(name, settings)
        elif name in at_ceiling:
            hold[Comparison(name, "trained", serving)] = margin(name, settings)
    if any(comparison.environment in critical for comparison in hold):
        settings = replace(settings, nmax=max(settings.nmax, settings.nmax_critical))
    tested = {comparison.environment for comparison in hold}
    return Scope(
        settings=settings,
        hold=hold,
        pool=tuple(voting) if len(voting) > 1 else (),
        gain=tuple(Comparison(name, "trained", serving) for name in trained if name not in at_ceiling),
        vacuous={name: anchor_scores[name] for name in anchors if name not in tested},
        at_ceiling=at_ceiling,
    )
