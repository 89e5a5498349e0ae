"""The stages of the stream, as the daemon that has the home was told them, and how far each is.

A stage is a stretch of the stream with one mix of environments. Its name stands in each task that it drew, so that how far it is follows
from the tasks, and a stream that is started again goes on where it stood. The rows here are for those who have no configuration at hand,
such as `perdure status`. Left out: what is drawn next (`agent/stream/drawing.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from perdure.memory.json_value import to_json
from perdure.memory.store import Store

Order = Literal["interleaved", "shuffled", "sequential", "permuted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """An environment of a stage."""

    name: str
    """Canonical."""
    weight: float = 1.0
    tasks: int = 0
    """The most tasks that it gets in this stage; 0 for no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of the stream."""

    name: str
    environments: tuple[Share, ...]
    members: int
    """Episodes of each task."""
    tasks: int = 0
    """After so many it ends; 0 for no limit but those of its environments."""
    order: Order = "interleaved"
    curriculum: bool = False

    @property
    def size(self) -> int:
        """How many tasks it has, 0 where it is endless."""
        budgets = [share.tasks for share in self.environments]
        ends = [*([self.tasks] if self.tasks else []), *([sum(budgets)] if all(budgets) else [])]
        return min(ends, default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an environment is in a stage, in tasks."""

    drawn: int = 0
    queued: int = 0
    ended: int = 0
    """Done or failed."""


Drawn = Mapping[tuple[str | None, str], Progress]
"""By stage and environment. No stage: tasks from before there were stages."""


def set_stages(store: Store, stages: Sequence[Stage]) -> None:
    """Write down the stages of the stream; those that were there before are forgotten, their tasks stay."""
    rows = [(place, stage.name, to_json(asdict(stage))) for place, stage in enumerate(stages)]
    with store.write() as conn:
        conn.execute("DELETE FROM stage")
        conn.executemany("INSERT INTO stage (place, name, plan) VALUES (?, ?, ?)", rows)


def list_stages(store: Store) -> list[Stage]:
    """The stages in their order; none where no daemon ever ran here."""
    plans: list[dict[str, Any]] = [json.loads(row["plan"]) for row in store.rows("SELECT plan FROM stage ORDER BY place")]
    return [Stage(**{**plan, "environments": tuple(Share(**share) for share in plan["environments"])}) for plan in plans]


def progress(store: Store) -> dict[tuple[str | None, str], Progress]:
    """How far each environment is in each stage that ever drew a task. Reads an index from end to end."""
    rows = store.rows(
        """
        SELECT stage, environment, count(*) AS drawn, sum(state = 'queued') AS queued, sum(state IN ('done', 'failed')) AS ended
        FROM task WHERE source = 'stream' GROUP BY stage, environment
        """
    )
    return {(row["stage"], row["environment"]): Progress(drawn=row["drawn"], queued=row["queued"], ended=row["ended"]) for row in rows}


def waiting(store: Store) -> int:
    """How many tasks wait to be played that the stream drew."""
    sql = "SELECT count(*) AS n FROM task INDEXED BY task_by_state WHERE state = 'queued' AND source = 'stream'"
    return int(store.rows(sql)[0]["n"])  # few wait, many were
