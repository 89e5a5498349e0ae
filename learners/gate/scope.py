"""Who is judged how: margins and limits, and which environments are tested. Fixed before the first pair of a gate, from dev seeds only."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import NamedTuple

from perdure.memory.errors import InputError
from perdure.memory.json_value import to_json
from perdure.memory.records import Role

FEW_EARLIER = 3
"""With at most this many earlier environments that vote, the margins of the economy profile apply."""
SMALLEST_MARGIN = 0.10
"""No environment has a smaller task margin, however low its anchor scores: a smaller one would need hundreds of pairs."""
CEILING = 0.95
"""Above this score of the serving version no gain is asked for: there is too little left to show it."""
MOST_VOIDS, MOST_VOID_SHARE = 20, 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """Margins of loss, in points of score from 0 to 1, limits on rounds, and how answers are drawn."""

    profile: str
    pool_margin: float
    task_margin: float
    """Of one environment, at most (`margin_of`)."""
    nmax: int
    """Most rounds; a round is one pair of each open comparison."""
    nmin: int = 6
    alpha: float = 0.05
    critical_margin: float = 0.10
    """Instead of `task_margin`, for environments marked critical."""
    samples: int = 4
    """Answers to each seed on each side; a side's score is their mean."""
    temperature: float = 1.0
    """At which they are sampled; 0 is greedy."""

    def __post_init__(self) -> None:
        for name in ("pool_margin", "task_margin", "critical_margin", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"gate setting {name} is {getattr(self, name)}; it must be between 0 and 1")
        if not 1 <= self.nmin <= self.nmax:
            raise InputError(f"gate settings nmin {self.nmin} and nmax {self.nmax}: they must satisfy 1 <= nmin <= nmax")
        if self.samples < 1:
            raise InputError(f"gate setting samples is {self.samples}; each side needs at least one answer to a seed")
        if not self.temperature >= 0:
            raise InputError(f"gate setting temperature is {self.temperature}; it must be 0 (greedy) or more")

    @property
    def need(self) -> float:
        """The wealth (an e-value) that a test must reach."""
        return 1 / self.alpha


PROFILES: dict[str, GateSettings] = {
    "economy": GateSettings(profile="economy", pool_margin=0.10, task_margin=0.30, nmax=192),
    "standard": GateSettings(profile="standard", pool_margin=0.07, task_margin=0.25, nmax=192),
    "strict": GateSettings(profile="strict", pool_margin=0.05, task_margin=0.15, nmax=384),
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
    anchors: tuple[Comparison, ...] = ()
    """The comparison with the anchor of every environment that has one, vacuous ones too: the candidate may become the anchor there."""

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All that are played in a gate or after it, each once."""
        return tuple(dict.fromkeys((*self.hold, *self.gain, *self.anchors)))

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
                "anchors": [comparison._asdict() for comparison in self.anchors],
            }
        )


def read_scope(text: str) -> Scope | None:
    """The scope that `Scope.text` wrote; None if the text does not say enough, as that of a gate of an earlier release."""
    try:
        document = json.loads(text)
        hold = {_comparison(one): float(one["margin"]) for one in document["hold"]}
        return Scope(
            settings=GateSettings(**{one.name: document[one.name] for one in fields(GateSettings)}),
            hold=hold,
            pool=tuple(one for one in hold if one.role == "earlier" and one.environment in document["pool"]),
            gain=tuple(map(_comparison, document["gain"])),
            vacuous=dict(document["vacuous"]),
            at_ceiling=dict(document["at_ceiling"]),
            anchors=tuple(map(_comparison, document["anchors"])),
        )
    except (LookupError, TypeError, ValueError):
        return None


def _comparison(document: Mapping[str, str]) -> Comparison:
    role = document["role"]
    if role not in ("earlier", "trained"):
        raise ValueError(f"no role {role!r}")
    return Comparison(str(document["environment"]), "earlier" if role == "earlier" else "trained", str(document["reference"]))


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
    """Decide which environments vote, and by which margin, from scores on dev seeds only.

    `anchors` has the anchor of each environment with one; those not in `trained` are the earlier ones. With three or fewer earlier ones
    that vote, the margins of the economy profile apply. If only one earlier environment votes, there is no pooled test. An environment
    without a dev score votes and needs a gain. A trained environment at its ceiling must not fall against the serving version, unless its
    anchor is tested already.
    """
    anchor_scores, serving_scores = anchor_scores or {}, serving_scores or {}
    earlier = [name for name in anchors if name not in trained]

    def margin(name: str) -> float:
        return margin_of(settings, anchor_scores.get(name), critical=name in critical)

    def protects(name: str) -> bool:
        return anchor_scores.get(name, 1.0) > margin(name)

    # Economy's margins are the widest, so a switch to them adds no votes: there are still three or fewer.
    if settings.profile != "economy" and sum(map(protects, earlier)) <= FEW_EARLIER:
        economy = PROFILES["economy"]
        settings = replace(settings, profile=economy.profile, pool_margin=economy.pool_margin, task_margin=economy.task_margin)
    voting = [Comparison(name, "earlier", anchors[name]) for name in earlier if protects(name)]
    hold = {comparison: margin(comparison.environment) for comparison in voting}
    at_ceiling = {name: serving_scores[name] for name in trained if serving_scores.get(name, 0.0) > CEILING}

    def against_anchor(name: str) -> Comparison:
        # The role says whose pairs are used: "trained" those against the serving version, which the test of the gain shares, "earlier"
        # those against an anchor. So a trained environment with an older anchor is "earlier" here, but not in the pool.
        return Comparison(name, "trained" if name in trained and anchors[name] == serving else "earlier", anchors[name])

    for name in trained:
        if name in anchors and protects(name):
            hold[against_anchor(name)] = margin(name)
        elif name in at_ceiling:
            hold[Comparison(name, "trained", serving)] = margin_of(settings, at_ceiling[name], critical=name in critical)
    tested = {comparison.environment for comparison in hold}
    return Scope(
        settings=settings,
        hold=hold,
        pool=tuple(voting) if len(voting) > 1 else (),
        gain=tuple(Comparison(name, "trained", serving) for name in trained if name not in at_ceiling),
        vacuous={name: anchor_scores[name] for name in anchors if name not in tested},
        at_ceiling=at_ceiling,
        anchors=tuple(map(against_anchor, anchors)),
    )


def margin_of(settings: GateSettings, anchor_score: float | None, *, critical: bool = False) -> float:
    """The largest loss that counts as held: half of what the anchor scores, within limits, since half of a skill is not held.

    Without a score it is the full margin of the profile.
    """
    widest = min(settings.task_margin, settings.critical_margin) if critical else settings.task_margin
    return widest if anchor_score is None else min(widest, max(SMALLEST_MARGIN, anchor_score / 2))


def too_many_voids(voids: int, draws: int) -> bool:
    """Whether an environment fails too often to judge: more than 20 of its draws, and more than a third of them, are void."""
    return voids > MOST_VOIDS and voids > MOST_VOID_SHARE * draws
