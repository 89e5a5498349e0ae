"""The arms and runs of a grid, in the order in which they are done. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from perdure.agent.config import Config
from perdure.agent.metrics.metric_table import METRIC
from perdure.agent.studies.grid.cell_plan import folder_of
from perdure.agent.studies.grid.grid_file import PLAIN, ArmHelper, ArmLearner, GridFile
from perdure.learners.option_parsing import parse_options, read_by
from perdure.memory.contracts.orders import OptionValue
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document

Stages = tuple[tuple[str, ...], ...]
"""The environments that each stage learns."""
SEEDS_A_RUN = 100
"""Orders that one seed can have, so that no two runs draw the same tasks to learn from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is compared."""

    name: str
    learner: str
    """One of Perdure's."""
    options: Mapping[str, OptionValue]
    helper: ArmHelper
    rates: tuple[float, ...] = ()
    """That pilots try; empty for those of the file."""
    traces_of: str = ""
    """The arm from whose run it learns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRun:
    """One run: an arm on one stream in one order with one seed."""

    arm: Arm
    stream: str
    order: str
    """As rows name it: the stream, with the number of the order if there are several."""
    stages: Stages
    seed: int
    training_seed: int
    """Of the tasks to learn from and of all answers; differs between orders."""


def arm_name(learner: str, helper: str) -> str:
    """'grpo', or 'grpo + replay'."""
    return learner if helper == PLAIN else f"{learner} + {helper}"


def arms(file: GridFile, stream: str) -> list[Arm]:
    """The arms of one stream. One that learns from another's traces comes after it. Raises `InputError` for options that do not fit."""
    found = [arm for helper in file.grid.helpers for learner in file.grid.learners if (arm := _arm(file, stream, learner, helper))]
    return sorted(found, key=lambda arm: bool(arm.traces_of))


def runs(file: GridFile) -> Iterator[GridRun]:
    """All runs: seeds outside, arms inside, so that a study that is stopped early has all arms on some seeds."""
    for nth, seed in enumerate(file.grid.seeds):
        for n in range(file.grid.orders) if file.grid.crossed else (nth % file.grid.orders,):
            for stream in file.grid.streams:
                stages = in_order(file.streams[stream].targets, n)
                order = stream if file.grid.orders == 1 else f"{stream}/{n}"
                for arm in arms(file, stream):
                    yield GridRun(arm=arm, stream=stream, order=order, stages=stages, seed=seed, training_seed=training_seed(seed, n))


def in_order(stages: Stages, n: int) -> Stages:
    """The n-th order of these stages: as written, reversed, then drawn."""
    if n == 0:
        return stages
    if n == 1:
        return stages[::-1]
    drawn = list(stages)
    random.Random(f"order {n}").shuffle(drawn)
    return tuple(drawn)


def training_seed(seed: int, order: int) -> int:
    """The seed of the tasks to learn from and of all answers of a run."""
    return SEEDS_A_RUN * seed + order


def target_environments(file: GridFile) -> list[str]:
    """All that is learned in some stream."""
    return list(dict.fromkeys(name for stream in file.grid.streams for stage in file.streams[stream].targets for name in stage))


def environments(file: GridFile) -> list[str]:
    """All that a study measures, its targets first."""
    return list(dict.fromkeys([*target_environments(file), *file.measure.environments, *file.measure.unseen]))


def check_grid(file: GridFile) -> None:
    """Raise `InputError` for what the file alone does not show: options that do not fit, unknown environments, claims about nothing."""
    if file.study.kind == "retaining-by-doing":
        for name in file.grid.streams:
            if len(file.streams[name].targets) != 1:
                raise InputError(f"streams.{name}: retaining-by-doing has one stage; write several targets as a list in it")
    for name, environment in configuration(file, 0).environments(environments(file)).items():
        if environment.name != name:
            raise InputError(f"write {environment.name!r} for the environment {name!r}: rows name it so")
    known: dict[str, Arm] = {}
    for stream in file.grid.streams:
        here = arms(file, stream)
        if len({arm.name for arm in here}) < len(here):
            raise InputError(f"two arms have one name: {', '.join(arm.name for arm in here)}")
        for arm in here:
            if arm.traces_of and arm.traces_of not in {other.name for other in here}:
                raise InputError(f"{arm.name} learns from the traces of {arm.traces_of}, which {stream} does not have: run it there too")
        known |= {arm.name: arm for arm in here}
    _check_folders([(arm, stream) for arm in known for stream in file.grid.streams])
    for arm in known.values():
        _check_options(file, arm)
    for claim in file.claims:
        for name in (claim.first, claim.second):
            if name not in known:
                raise InputError(f"claims: no arm is named {name!r}; there are {', '.join(known)}")
        of = ("drop", "panel_drop") if file.study.kind == "retaining-by-doing" else tuple(METRIC)
        if claim.of not in of:
            raise InputError(f"claims: of = {claim.of!r} is none of {', '.join(of)}")


def _check_folders(pairs: Sequence[tuple[str, str]]) -> None:
    """Raise `InputError` if two names of arms or streams differ only in what the names of folders leave out."""
    found: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        other = found.setdefault(folder_of(" on ".join(pair)), pair)
        if other != pair:
            first, second = next((a, b) for a, b in zip(other, pair, strict=True) if a != b)
            raise InputError(f"{first!r} and {second!r} would share a folder: give one of them another name")


def _check_options(file: GridFile, arm: Arm) -> None:
    options = parse_options(arm.learner, configuration(file, 0).learner_options(arm.learner, dict(arm.options)))
    updates = options.common.updates
    if file.measure.checkpoints and file.measure.checkpoints[-1] > updates:
        raise InputError(f"measure.checkpoints has {file.measure.checkpoints[-1]}, and {arm.name} makes {updates} updates")
    if file.study.kind == "retaining-by-doing" and options.retention.interpolate != 1:
        raise InputError(f"{arm.name}: interpolate changes only the last update, and retaining-by-doing may deliver an earlier one")


def configuration(file: GridFile, seed: int) -> Config:
    """The configuration of a home."""
    return Config.model_validate({**file.home, "seed": seed})


def home_document(file: GridFile, seed: int) -> Document:
    """What a cell needs to make the same configuration again."""
    return {**file.home, "seed": seed}


def _arm(file: GridFile, stream: str, learner: str, helper: str) -> Arm | None:
    """None if the learner is not for this stream or helper."""
    own = file.learners.get(learner) or ArmLearner(learner=learner)
    helped = file.helpers.get(helper) or ArmHelper()
    if (own.streams and stream not in own.streams) or (own.helpers and helper not in own.helpers):
        return None
    options = {**read_by(own.learner, file.options), **own.options, **read_by(own.learner, helped.options)}
    return Arm(
        name=helped.arm or arm_name(learner, helper),
        learner=own.learner,
        options=options,
        helper=helped,
        rates=own.rates,
        traces_of=arm_name(own.traces_of, helper) if own.traces_of else "",
    )
