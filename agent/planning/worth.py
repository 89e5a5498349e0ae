"""How much a learning job on an environment promises: learnability, what its jobs have brought so far, and what they cost.

    worth = share of mixed groups x p (1 - p)^2 x ((a + 1) / (a + b + 2))^2 / cost^.75

p is the success rate of live play. p (1 - p) is learnability (Foster and Foerster 2025), and 1 - p the headroom; if all members of a group
come to the same return, comparing them teaches nothing. a and b are promotions and other verdicts (`track_record.py`), squared because
without them a game of chance with three outcomes, p = 1/3, would have the largest worth of all, for ever.

The power of the cost: of 40 simulated lives with jobs that take 1, 2 or 4 times as long, and 90 times the shortest job in all, eight
environments ended at .876, .902, .911 and .909 with the powers 0, .5, .75 and 1. With .75 an environment whose jobs take four times as long
must promise 2.8 times as much; with 1 it would wait longer for no gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from perdure.agent.planning.life_so_far import EnvironmentNow, LifeSoFar
from perdure.agent.planning.track_record import SET_ASIDE_FROM, TrackRecord, relative_costs, track_records
from perdure.memory.trajectories.episodes import RateRow

MASTERED = 0.9
"""An environment that succeeds this often has no headroom worth a learning job."""
MIN_EPISODES = 16
"""With fewer, a success rate is too uncertain to choose by."""
MIN_MIXED_SHARE = 0.1
"""At least this share of its groups must be mixed."""
PRIOR_EPISODES = 8
"""What the versions before the serving one have shown weighs as much as this many episodes."""
COST_POWER = 0.75
CHANCE_ERRORS = 2.0
"""A rate this many standard errors from what chance earns is not told from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What live play says about the serving version in one environment, with what older versions did as a prior."""

    episodes: float
    success: float
    """Share of the episodes."""
    groups: float
    mixed: float
    """Share of the groups whose returns differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """One environment as a target."""

    name: str
    estimate: Estimate | None
    """None if it was never played."""
    record: TrackRecord
    """With one refusal in advance if its rate is not told from chance."""
    by_chance: bool = False
    cost: float = 1.0
    """Of its jobs, relative to the median."""

    @property
    def learnability(self) -> float:
        seen = self.estimate
        return 0.0 if seen is None else seen.mixed * seen.success * (1 - seen.success) ** 2

    @property
    def worth(self) -> float:
        return self.learnability * self.record.hope / float(self.cost**COST_POWER)


def prospects(life: LifeSoFar, prior_episodes: float = PRIOR_EPISODES) -> list[Prospect]:
    """Every environment of the stream as a target."""
    records, costs = track_records(life), relative_costs(life)
    found = []
    for environment in life.environments:
        if environment.streamed:
            seen = estimate(environment.rates, prior_episodes)
            by_chance = is_chance(environment, seen)
            record = records.get(environment.name, TrackRecord())
            if by_chance:
                record = TrackRecord(promotions=record.promotions, refusals=record.refusals + 1)
            found.append(
                Prospect(name=environment.name, estimate=seen, record=record, by_chance=by_chance, cost=costs.get(environment.name, 1.0))
            )
    return found


def estimate(rates: Sequence[RateRow], prior_episodes: float = PRIOR_EPISODES) -> Estimate | None:
    """From the rates of versions, the oldest first: each is the prior of the next, of at most `prior_episodes`. None without episodes."""
    found: Estimate | None = None
    for row in rates:
        if found is None:
            if row.episodes:
                found = Estimate(
                    episodes=row.episodes,
                    success=row.successes / row.episodes,
                    groups=row.groups,
                    mixed=row.mixed_groups / row.groups if row.groups else 0.0,
                )
            continue
        weight = min(prior_episodes, found.episodes)
        groups = weight * found.groups / found.episodes
        episodes, all_groups = row.episodes + weight, row.groups + groups
        found = Estimate(
            episodes=episodes,
            success=(row.successes + weight * found.success) / episodes,
            groups=all_groups,
            mixed=(row.mixed_groups + groups * found.mixed) / all_groups if all_groups else 0.0,
        )
    return found


def is_chance(environment: EnvironmentNow, seen: Estimate | None) -> bool:
    """Whether the success rate is within noise of what a constant or a random answer earns, if that is known and above 0."""
    if environment.chance is None or environment.chance <= 0 or seen is None:
        return False
    error = sqrt(environment.chance * (1 - environment.chance) / seen.episodes)
    return abs(seen.success - environment.chance) <= CHANCE_ERRORS * error


def obstacle(prospect: Prospect) -> str | None:
    """Why an environment is no target now; None if it is one."""
    seen = prospect.estimate
    if seen is None or seen.episodes < MIN_EPISODES or not seen.groups:
        return f"has only {0 if seen is None else round(seen.episodes)} episodes and needs {MIN_EPISODES}"
    if seen.success >= MASTERED:
        return f"succeeds in {seen.success:.0%}, which leaves too little to gain"
    if seen.mixed < MIN_MIXED_SHARE:
        return (
            f"succeeds in {seen.success:.0%}, and {seen.mixed:.0%} of its groups are mixed: "
            "episodes of one task score the same, and teach nothing"
        )
    if prospect.record.set_aside:
        return f"is set aside: its jobs led to no promotion ({prospect.record.refusals:.1f} refusals, from {SET_ASIDE_FROM} on)"
    return None


def choose(all_prospects: Sequence[Prospect]) -> Prospect | None:
    """The target that promises most; None if nothing is learnable."""
    able = [prospect for prospect in all_prospects if obstacle(prospect) is None and prospect.worth > 0]
    return max(able, key=lambda prospect: prospect.worth) if able else None


def reason(prospect: Prospect) -> str:
    """Why this target was chosen, in one sentence."""
    seen, record = prospect.estimate, prospect.record
    assert seen is not None
    text = f"{prospect.name} succeeds in {seen.success:.0%} of its live episodes, and {seen.mixed:.0%} of its groups are mixed"
    if prospect.by_chance:
        text += "; so does chance, which counts as a refusal"
    if record.promotions or record.refusals:
        text += f"; its jobs so far: {record.promotions:.1f} promotions and {record.refusals:.1f} refusals, the latest counted most"
    return text
