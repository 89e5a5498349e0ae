"""The stages of the stream, as the last daemon read them from its settings, and the progress of each.

A stage is a stretch of the stream with one mix of environments. Each task names the stage that drew it: progress is counted from the tasks,
and a restarted stream resumes. The rows here are for readers without the settings, such as `perdure status`. Left out: which task is drawn
next (`agent/stream/task_drawing.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from perdure.memory.json_value import Document, to_json
from perdure.memory.records import StageOrder
from perdure.memory.store import Store, reading_row


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShare:
    """An environment of a stage."""

    name: str
    """The canonical name."""
    weight: float = 1.0
    tasks: int = 0
    """The most tasks that it gets in this stage; 0 for no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of the stream."""

    name: str
    environments: tuple[StageShare, ...]
    members: int
    """Episodes of each task."""
    tasks: int = 0
    """The stage ends after this many tasks; 0 for no limit but those of its environments."""
    order: StageOrder = "interleaved"
    curriculum: bool = False

    @property
    def size(self) -> int:
        """How many tasks it has; 0 if it is endless."""
        budgets = [share.tasks for share in self.environments]
        ends = [*([self.tasks] if self.tasks else []), *([sum(budgets)] if all(budgets) else [])]
        return min(ends, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """How far an environment is in a stage, in tasks."""

    drawn: int = 0
    queued: int = 0
    ended: int = 0
    """Done or failed."""


Drawn = Mapping[tuple[str | None, str], StageProgress]
"""By stage and environment. The stage is None for tasks that no stage drew."""


def set_stages(store: Store, stages: Sequence[Stage]) -> None:
    """Replace the stages of the stream. The tasks of earlier stages stay."""
    rows = [(place, stage.name, to_json(asdict(stage))) for place, stage in enumerate(stages)]
    with store.write() as conn:
        conn.execute("DELETE FROM stage")
        conn.executemany("INSERT INTO stage (place, name, plan) VALUES (?, ?, ?)", rows)


def list_stages(store: Store) -> list[Stage]:
    """The stages in their order; none if no daemon has run here yet."""
    rows = store.rows("SELECT plan FROM stage ORDER BY place")
    with reading_row("a stage of the stream"):
        plans: list[Document] = [json.loads(row["plan"]) for row in rows]
        return [Stage(**{**plan, "environments": tuple(StageShare(**share) for share in plan["environments"])}) for plan in plans]


def progress(store: Store) -> dict[tuple[str | None, str], StageProgress]:
    """The progress of each environment in each stage that ever drew a task. Reads a whole index."""
    rows = store.rows(
        """
        SELECT stage, environment, count(*) AS drawn, sum(state = 'queued') AS queued, sum(state IN ('done', 'failed')) AS ended
        FROM task WHERE source = 'stream' GROUP BY stage, environment
        """
    )
    return {(row["stage"], row["environment"]): StageProgress(drawn=row["drawn"], queued=row["queued"], ended=row["ended"]) for row in rows}


def waiting(store: Store) -> int:
    """How many tasks of the stream are queued."""
    sql = "SELECT count(*) AS n FROM task INDEXED BY task_by_state WHERE state = 'queued' AND source = 'stream'"
    return int(store.rows(sql)[0]["n"])  # few are queued, many are done
