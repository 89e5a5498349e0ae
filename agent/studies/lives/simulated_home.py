"""A home in memory: its versions as skills, its live play, and what it stores of gates. `simulated_gate.py` gates."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random

from perdure.agent.planning.life_so_far import EnvironmentNow, LifeSoFar, Standing
from perdure.agent.studies.lives.skill_model import LifeModel, Skills, successes
from perdure.memory.contracts.orders import Job
from perdure.memory.trajectories.episodes import RateRow

FIRST = "v0"
EPISODES_A_LOOK, MEMBERS = 336, 8
"""Live episodes between two looks at what to learn, and episodes of a task: the defaults."""
NO_RATE = RateRow(episodes=0, successes=0, groups=0, mixed_groups=0)


@dataclass(slots=True, kw_only=True)
class SeedTally:
    """Scores of one version in one environment."""

    dev_seeds: int = 0
    seeds: int = 0
    """In all."""
    total: float = 0.0

    def add(self, home: SimulatedHome, version: str, environment: str, seeds: int, samples: int) -> None:
        self.seeds += seeds
        self.total += successes(home.success(version, environment), seeds * samples, home.rng) / samples


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceScores:
    """Seeds that a reference played in the gates of a candidate."""

    candidate: str
    version: str
    environment: str
    seeds: int
    samples: int


@dataclass(slots=True, kw_only=True)
class SimulatedHome:
    """All that the home knows, and the truth that it does not know (`skills`)."""

    model: LifeModel
    rng: Random
    skills: dict[str, Skills]
    led: list[str] = field(default_factory=lambda: [FIRST])
    """The versions that served, the serving one last."""
    anchors: dict[str, str] = field(default_factory=dict)
    """Of every environment that is registered."""
    jobs: list[Job] = field(default_factory=list)
    """The oldest first."""
    rates: dict[tuple[str, str], RateRow] = field(default_factory=dict)
    pairs: defaultdict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    """Differences by candidate, environment and reference."""
    scores: defaultdict[tuple[str, str], SeedTally] = field(default_factory=lambda: defaultdict(SeedTally))
    """On dev seeds, and as the reference in gates of other candidates, by version and environment."""
    uncounted: list[ReferenceScores] = field(default_factory=list)
    look: int = 0

    @property
    def serving(self) -> str:
        return self.led[-1]

    def success(self, version: str, name: str) -> float:
        """The true success rate now."""
        environment = next(one for one in self.model.environments if one.name == name)
        return environment.changes_to if environment.changed(self.look) else self.skills[version][name]


def new_home(model: LifeModel, rng: Random) -> SimulatedHome:
    return SimulatedHome(model=model, rng=rng, skills={FIRST: {one.name: one.start for one in model.environments}})


def begin_look(home: SimulatedHome) -> None:
    """Register the environments whose stage begins, and play live episodes of those on the stream."""
    streamed = [one for one in home.model.environments if one.streamed(home.look)]
    for one in home.model.environments:
        if one.since <= home.look:
            home.anchors.setdefault(one.name, home.serving)
    for place, one in enumerate(streamed):
        groups = EPISODES_A_LOOK // MEMBERS
        groups = groups // len(streamed) + (place < groups % len(streamed))
        p = home.success(home.serving, one.name)
        wins = [successes(p, MEMBERS, home.rng) for _ in range(groups)]
        past = home.rates.get((home.serving, one.name), NO_RATE)
        home.rates[home.serving, one.name] = RateRow(
            episodes=past.episodes + MEMBERS * groups,
            successes=past.successes + sum(wins),
            groups=past.groups + groups,
            mixed_groups=past.mixed_groups + sum(0 < won < MEMBERS for won in wins),
        )


def life_so_far(home: SimulatedHome, fruitless: int) -> LifeSoFar:
    """What the planner sees."""
    return LifeSoFar(
        serving=home.serving,
        environments=tuple(
            EnvironmentNow(
                name=one.name,
                streamed=one.streamed(home.look),
                rates=tuple(home.rates.get((version, one.name), NO_RATE) for version in home.led),
                chance=one.chance,
                oracle=one.oracle,
                standing=_standing(home, one.name),
            )
            for one in home.model.environments
            if one.name in home.anchors
        ),
        jobs=tuple(reversed(home.jobs)),
        usable=frozenset(home.skills),
        fruitless=fruitless,
    )


def _standing(home: SimulatedHome, name: str) -> Standing | None:
    differences = home.pairs.get((home.serving, name, home.anchors[name]))
    return Standing(difference=sum(differences) / len(differences), pairs=len(differences)) if differences else None
