"""The conditions under which lives are simulated: one for each row of the table, by name, and what each row must reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from perdure.agent.studies.lives.skill_model import JobEffects, LifeModel, SimulatedEnvironment

LOOKS = 50
"""Times that a home looks for something to learn, in one life."""

EIGHT = tuple(SimulatedEnvironment(name=f"skill {n}", start=0.1 + 0.5 * n / 7) for n in range(8))
"""From .10 to .60."""
SIX = tuple(SimulatedEnvironment(name=f"skill {n}", start=0.1 + 0.5 * n / 5, chance=0.0) for n in range(6))
OLD_START = 0.90
OLD = tuple(SimulatedEnvironment(name=f"old {n}", start=OLD_START, until=0) for n in range(7))
"""Seven that have left the stream before the first look."""
STAGES = tuple(SimulatedEnvironment(name=f"stage {n}", start=0.10, since=5 * n, until=5 * (n + 1)) for n in range(10))
"""Ten that follow each other on the stream."""
FIFTEEN_POINTS = JobEffects(gain=0.15, elsewhere=-0.005)
CHANGES_AT = 20
"""The look at which an environment changes in mid-life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One row: lives of one model."""

    model: LifeModel
    about: str
    least: Mapping[str, float] = field(default_factory=dict)
    """What the row's numbers must be at least (`lives_table.py` has their names)."""
    most: Mapping[str, float] = field(default_factory=dict)
    looks: int = LOOKS


def chance_games(n: int, known: bool) -> tuple[SimulatedEnvironment, ...]:
    """Games of three outcomes, won by chance."""
    chance = 1 / 3 if known else None
    return tuple(SimulatedEnvironment(name=f"game {k}", start=1 / 3, learnable=False, chance=chance) for k in range(n))


def changing(to: float) -> tuple[SimulatedEnvironment, ...]:
    """Eight, of which one changes in mid-life."""
    return (*EIGHT[:4], replace(EIGHT[4], changes_at=CHANGES_AT, changes_to=to), *EIGHT[5:])


def _stages(loss: float, least: Mapping[str, float]) -> Condition:
    effects = JobEffects(gain=0.30, elsewhere=-loss)
    about = f"seven old environments off the stream, ten stages; every job loses {100 * loss:g} points elsewhere"
    return Condition(model=LifeModel(environments=(*OLD, *STAGES), effects=effects), about=about, least=least, most=NEVER_STALLED)


def _on_stream(loss: float, q: float | None = None) -> Condition:
    return Condition(
        model=LifeModel(environments=EIGHT, effects=JobEffects(elsewhere=-loss), q=q),
        about=f"eight on the stream; every job gains 30 points and loses {100 * loss:g} elsewhere",
    )


def _games(n: int, known: bool, *, is_limited: bool = False) -> Condition:
    what = "known" if known else "not known"
    about = f"six learnable environments and {n} game{'s' * (n != 1)} of chance (p = 1/3), what chance earns is {what}"
    return Condition(
        model=LifeModel(environments=(*SIX, *chance_games(n, known)), effects=FIFTEEN_POINTS),
        about=about,
        least=KEEPS_LEARNING if is_limited else {},
        most=FEW_JOBS if is_limited else {},
    )


FALLING = JobEffects(bad_share=0.30)
NEVER_STALLED = {"stalled": 0.0}
OLD_ONES_KEPT = {"old_change": -0.01}
KEEPS_LEARNING = {"end": 0.95}
FEW_JOBS = {"jobs_on_chance": 8.0}

CONDITIONS: Mapping[str, Condition] = {
    "falls": Condition(
        model=LifeModel(environments=EIGHT, effects=FALLING), about="30 % of the candidates lose 20 to 60 points in one place"
    ),
    "falls, q .1": Condition(
        model=LifeModel(environments=EIGHT, effects=FALLING, q=0.1), about="the same, pairs are won or lost, 10 % differ"
    ),
    "falls, q .2": Condition(model=LifeModel(environments=EIGHT, effects=FALLING, q=0.2), about="the same, 20 % differ"),
    "falls, q .3": Condition(model=LifeModel(environments=EIGHT, effects=FALLING, q=0.3), about="the same, 30 % differ"),
    "stages -0": _stages(0.0, {}),
    "stages -1": _stages(0.01, OLD_ONES_KEPT),
    "stages -2": _stages(0.02, OLD_ONES_KEPT),
    "stages -3": _stages(0.03, OLD_ONES_KEPT),
    "no game": _games(0, True),
    "one game": _games(1, True, is_limited=True),
    "two games": _games(2, True),
    "three games": _games(3, True),
    "one game, not known": _games(1, False),
    "three games, not known": _games(3, False),
    "on the stream -0": _on_stream(0.0),
    "on the stream -1": _on_stream(0.01),
    "on the stream -2": _on_stream(0.02),
    "on the stream -3": _on_stream(0.03),
    "on the stream -5": _on_stream(0.05),
    "on the stream -2, q .1": _on_stream(0.02, q=0.1),
    "flaky 2 %": Condition(model=LifeModel(environments=EIGHT, failures=0.02), about="2 % of the candidate's answers fail by chance"),
    "flaky 5 %": Condition(model=LifeModel(environments=EIGHT, failures=0.05), about="5 % of them"),
    "flaky 10 %": Condition(model=LifeModel(environments=EIGHT, failures=0.10), about="10 % of them"),
    "never succeeds": Condition(
        model=LifeModel(environments=(*EIGHT[:7], SimulatedEnvironment(name="stuck", start=0.0, oracle=True))),
        about="one environment never succeeds, and has an oracle",
    ),
    "rivals": Condition(
        model=LifeModel(environments=EIGHT, effects=JobEffects(rivals=("skill 0", "skill 1"))),
        about="two environments that cannot be held together",
    ),
    "turns impossible": Condition(
        model=LifeModel(environments=changing(0.0)), about=f"one environment succeeds never after look {CHANGES_AT}"
    ),
    "turns free": Condition(model=LifeModel(environments=changing(1.0)), about=f"one environment succeeds always after look {CHANGES_AT}"),
    "turns noisy": Condition(model=LifeModel(environments=changing(0.5)), about=f"one environment is a coin after look {CHANGES_AT}"),
}
