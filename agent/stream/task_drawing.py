"""The stream of live tasks: which is drawn next. Stages and what they have drawn so far in, draws out; a restart changes nothing.

A stage draws by its own position, the number of tasks that it has drawn so far, and by the mix as it is configured now: an environment that
is added gets its share from then on, and does not catch up. Draw i of an environment is its i-th task on the whole stream, and decides its
seed. Left out: what may be configured (`stream_settings.py`), and when to draw (`supervision/daemon_duties.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perdure.envs.seeds import draw_chance, place_in_order, train_seed
from perdure.memory.errors import InputError, UnknownError
from perdure.memory.stages import Drawn, Stage, StageShare, progress, waiting
from perdure.memory.store import Store
from perdure.memory.tasks import add_tasks
from perdure.memory.trajectories.episodes import RateRow, success_rates
from perdure.memory.versions import serving

if TYPE_CHECKING:
    from perdure.agent.config import Config

FLOOR = 0.1
"""Under a curriculum every environment is drawn at least this share of what the most learnable one is: none starves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """A task to be queued."""

    stage: Stage
    environment: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refilled:
    """The result of `refill`."""

    added: int
    ended: bool
    """Every stage has drawn all its tasks."""


def stages_of(config: Config, canonical: Mapping[str, str]) -> tuple[Stage, ...]:
    """The stages of a configuration, with the canonical names of its environments.

    Raises `InputError` if two names of one stage are the same environment.
    """
    planned = []
    for stage in config.stream.plan:
        named: dict[str, str] = {}
        for environment in stage.environments:
            other = named.setdefault(canonical[environment.full_name], environment.full_name)
            if other != environment.full_name:
                raise InputError(
                    f"stage {stage.name!r} names one environment twice, as {other!r} and as {environment.full_name!r}: leave one out"
                )
        shares = tuple(StageShare(name=canonical[its.full_name], weight=its.weight, tasks=its.tasks) for its in stage.environments)
        planned.append(
            Stage(
                name=stage.name,
                environments=shares,
                members=stage.members or config.play.members,
                tasks=stage.tasks,
                order=stage.order,
                curriculum=stage.curriculum,
            )
        )
    return tuple(planned)


def present(stages: Sequence[Stage], drawn: Drawn) -> Stage | None:
    """The first stage that has tasks left to draw; None if all have ended."""
    counts = _counts(drawn)
    return next((stage for stage in stages if _open(stage, counts)), None)


def begun(stages: Sequence[Stage], drawn: Drawn) -> tuple[Stage, ...]:
    """The present stage and all before it."""
    now = present(stages, drawn)
    return tuple(stages) if now is None else tuple(stages[: stages.index(now) + 1])


def next_draws(
    stages: Sequence[Stage],
    drawn: Drawn,
    rates: Mapping[str, RateRow],
    *,
    per_environment: int,
    waiting: int,
    root: int,
    room: int | None = None,
) -> list[Draw]:
    """What to queue so that `per_environment` tasks wait for each environment of the present stage, at most `room` in all.

    `waiting` are the stream's tasks that wait already. `rates`, those of the serving version, count under a curriculum only.
    """
    counts = _counts(drawn)
    overall = Counter[str]()
    for (_, name), n in counts.items():
        overall[name] += n
    draws: list[Draw] = []
    for stage in stages:
        while shares := _open(stage, counts):
            if waiting + len(draws) >= per_environment * len(stage.environments) or (room is not None and len(draws) >= room):
                return draws
            name = _choose(stage, shares, _position(stage, counts), rates, root).name
            draws.append(Draw(stage=stage, environment=name, seed=train_seed(root, name, overall[name])))
            counts[stage.name, name] += 1
            overall[name] += 1
    return draws


def refill(
    store: Store,
    stages: Sequence[Stage],
    *,
    per_environment: int,
    root: int,
    room: int | None = None,
    begin: Callable[[Stage], None],
) -> Refilled:
    """Queue what the stream draws next. `begin(stage)` is called before tasks of that stage are queued, and registers its environments."""
    with store.write():
        wait = waiting(store)
        if wait >= per_environment * max(1, *(len(stage.environments) for stage in stages)):
            return Refilled(added=0, ended=False)  # the usual case; what follows counts all tasks
        drawn = progress(store)
        draws = next_draws(stages, drawn, _rates(store, stages), per_environment=per_environment, waiting=wait, root=root, room=room)
        for stage in {draw.stage.name: draw.stage for draw in draws}.values():
            begin(stage)
        for draw in draws:
            add_tasks(store, draw.environment, [draw.seed], draw.stage.members, "stream", draw.stage.name)
        return Refilled(added=len(draws), ended=not draws and present(stages, drawn) is None)


def learnability(row: RateRow | None) -> float:
    """4 p (1 - p), at least `FLOOR`: 1 if half of the episodes succeed, and if none was played yet.

    p is the rule-of-succession estimate, so that a few episodes decide little.
    """
    p = 0.5 if row is None else (row.successes + 1) / (row.episodes + 2)
    return max(FLOOR, 4 * p * (1 - p))


def _choose(stage: Stage, shares: Sequence[StageShare], position: int, rates: Mapping[str, RateRow], root: int) -> StageShare:
    match stage.order:
        case "sequential":
            return shares[0]
        case "permuted":
            return min(shares, key=lambda share: place_in_order(root, stage.name, share.name))
        case "interleaved":
            return _in_turn(shares, position)
        case "shuffled":
            weights = [share.weight * (learnability(rates.get(share.name)) if stage.curriculum else 1.0) for share in shares]
            left = draw_chance(root, stage.name, position) * math.fsum(weights)
            for share, weight in zip(shares, weights, strict=True):
                left -= weight
                if left < 0:
                    return share
            return shares[-1]


def _in_turn(shares: Sequence[StageShare], position: int) -> StageShare:
    """The environment at a position, from 0, of the sequence that gives each its weight as evenly as whole tasks can.

    Appearance k of the i-th of n environments is due at (k + (i + 1/2) / n) / weight: those of one weight take turns, in their order.
    """
    phases = [(i + 0.5) / len(shares) for i in range(len(shares))]
    start = max(0.0, (position - len(shares)) / math.fsum(share.weight for share in shares))
    had = [math.floor(start * share.weight + 1 - phase) for share, phase in zip(shares, phases, strict=True)]
    while True:  # up to `start` at most `position` were due; the few that are left are counted out
        i = min(range(len(shares)), key=lambda i: (had[i] + phases[i]) / shares[i].weight)
        if sum(had) >= position:
            return shares[i]
        had[i] += 1


def _open(stage: Stage, counts: Mapping[tuple[str | None, str], int]) -> list[StageShare]:
    """The environments of a stage that have tasks left to draw; empty if the stage has ended."""
    if stage.tasks and _position(stage, counts) >= stage.tasks:
        return []
    return [share for share in stage.environments if not share.tasks or counts.get((stage.name, share.name), 0) < share.tasks]


def _position(stage: Stage, counts: Mapping[tuple[str | None, str], int]) -> int:
    """How many tasks a stage has drawn, including those of environments that it no longer has."""
    return sum(n for (name, _), n in counts.items() if name == stage.name)


def _counts(drawn: Drawn) -> Counter[tuple[str | None, str]]:
    return Counter({key: each.drawn for key, each in drawn.items()})


def _rates(store: Store, stages: Sequence[Stage]) -> Mapping[str, RateRow]:
    """Those of the serving version; empty if no stage has a curriculum or no version serves."""
    if not any(stage.curriculum for stage in stages):
        return {}
    try:
        return success_rates(store, serving(store).name)
    except UnknownError:
        return {}
