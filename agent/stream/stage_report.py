"""How far the stream is, for `perdure status`: every stage with its tasks, and the present stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perdure.agent.stream.task_drawing import present
from perdure.memory.records import StageOrder
from perdure.memory.stages import Drawn, Stage, StageProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentReport:
    """An environment of a stage."""

    weight: float
    tasks: int
    """The most that it gets in this stage; 0 for no limit."""
    drawn: int
    queued: int
    ended: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """A stage. Tasks of environments that it no longer has are counted too."""

    name: str
    order: StageOrder
    curriculum: bool
    members: int
    tasks: int
    """How many it has; 0 if it is endless."""
    drawn: int
    queued: int
    ended: int
    environments: Mapping[str, EnvironmentReport]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """All stages in their order."""

    stage: str | None
    """The present one; None if all have drawn their tasks."""
    stages: tuple[StageReport, ...]

    @property
    def present(self) -> StageReport | None:
        return next((stage for stage in self.stages if stage.name == self.stage), None)


def stream_report(stages: Sequence[Stage], drawn: Drawn) -> StreamReport:
    """The stages with how far each is."""
    now = present(stages, drawn)
    return StreamReport(stage=None if now is None else now.name, stages=tuple(_stage_report(stage, drawn) for stage in stages))


def stream_line(stream: StreamReport) -> str | None:
    """How far the stream is, in one line; None if no daemon ever ran in this home."""
    if not stream.stages:
        return None
    stage = stream.present
    if stage is None:
        left = sum(each.drawn - each.ended for each in stream.stages)
        return "at its end: all stages are " + (f"drawn, {left} tasks are still to be played" if left else "played")
    order = f"{stage.order}, by a curriculum" if stage.curriculum else stage.order
    much = f"{stage.ended} of {stage.tasks} tasks" if stage.tasks else f"{stage.ended} tasks, without end"
    return f"stage {stage.name}, {stream.stages.index(stage) + 1} of {len(stream.stages)}, {order}: {much}"


def _stage_report(stage: Stage, drawn: Drawn) -> StageReport:
    progress = {name: one for (of, name), one in drawn.items() if of == stage.name}
    environments = {}
    for share in stage.environments:
        its = progress.get(share.name, StageProgress())
        environments[share.name] = EnvironmentReport(
            weight=share.weight, tasks=share.tasks, drawn=its.drawn, queued=its.queued, ended=its.ended
        )
    return StageReport(
        name=stage.name,
        order=stage.order,
        curriculum=stage.curriculum,
        members=stage.members,
        tasks=stage.size,
        drawn=sum(one.drawn for one in progress.values()),
        queued=sum(one.queued for one in progress.values()),
        ended=sum(one.ended for one in progress.values()),
        environments=environments,
    )
