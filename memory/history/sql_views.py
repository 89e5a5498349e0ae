"""What `perdure sql` can be asked: three views over the turns in the database and those in shards.

They show completed episodes only: an interrupted one, or one whose environment failed, is no data. docs/history.md says what the columns
mean. Left out: DuckDB itself (`read_sql.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.memory.history.shard_files import OF_EPISODE

Column = tuple[str, str, str, str]
"""Its name, DuckDB's type, and where it comes from: in a shard, and in the database (`t` is the turn, `e` the episode)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlView:
    """One view."""

    name: str
    table: str
    """What holds the rows of the database."""
    columns: tuple[Column, ...]
    of_shards: str = "true"
    """Which rows of a shard are rows of the view."""
    from_database: str = "turn t JOIN episode e ON e.id = t.episode"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _, _, _ in self.columns)

    def table_sql(self) -> str:
        """Makes the table for the rows of the database."""
        return f"CREATE TABLE {self.table} ({', '.join(f'{name} {kind}' for name, kind, _, _ in self.columns)})"

    def view_sql(self, sources: Sequence[str]) -> str:
        """Makes the view, of these tables with the columns of shards and of the table."""
        shown = ", ".join(f"CAST({there} AS {kind}) AS {name}" for name, kind, there, _ in self.columns)
        parts = [f"SELECT {shown} FROM {source} WHERE {OF_EPISODE}state = 'completed' AND {self.of_shards}" for source in sources]
        return f"CREATE VIEW {self.name} AS {' UNION ALL '.join([*parts, f'SELECT * FROM {self.table}'])}"

    def database_sql(self) -> str:
        """Asks the database for its rows, of the episodes between the pairs of ids in the parameter `runs`."""
        shown = ", ".join(here for _, _, _, here in self.columns)
        return f"""
            SELECT {shown} FROM json_each(:runs) run CROSS JOIN {self.from_database}
            WHERE e.id BETWEEN run.value ->> 0 AND run.value ->> 1 AND e.state = 'completed'
        """


def _same(name: str, kind: str) -> Column:
    """A column of the episode that has the same name everywhere."""
    return name, kind, f"{OF_EPISODE}{name}", f"e.{name}"


def _own(name: str, kind: str) -> Column:
    """A column of the turn that has the same name everywhere."""
    return name, kind, name, f"t.{name}"


def _sampler(shard: str, row: str) -> Column:
    there, here = (f"coalesce({one}version, 'job ' || {one}step_job || ' step ' || {one}step_n)" for one in (shard, row))
    return "sampler", "VARCHAR", there, here


def _time(name: str, shard: str, row: str) -> Column:
    return name, "TIMESTAMP", f"make_timestamp(CAST({shard}{name} * 1e6 AS BIGINT))", f"CAST({row}{name} * 1e6 AS INTEGER)"


EPISODES = SqlView(
    name="episodes",
    table="database_episode",
    columns=(
        ("id", "BIGINT", "episode", "e.id"),
        _same("environment", "VARCHAR"),
        _same("seed", "BIGINT"),
        ("group_name", "VARCHAR", f"{OF_EPISODE}group", 'e."group"'),
        _same("member", "BIGINT"),
        _same("seat", "BIGINT"),
        _same("purpose", "VARCHAR"),
        _sampler(OF_EPISODE, "e."),
        _same("task", "BIGINT"),
        _same("job", "BIGINT"),
        _same("temperature", "DOUBLE"),
        _same("turns", "BIGINT"),
        _same("total_reward", "DOUBLE"),
        _same("success", "BIGINT"),
        _same("score", "DOUBLE"),
        _same("stop_reason", "VARCHAR"),
        _time("started_at", OF_EPISODE, "e."),
        _time("finished_at", OF_EPISODE, "e."),
    ),
    of_shards="n = 0",
    from_database="episode e",
)
TURNS = SqlView(
    name="turns",
    table="database_turn",
    columns=(
        _own("episode", "BIGINT"),
        _own("n", "BIGINT"),
        _same("environment", "VARCHAR"),
        _same("purpose", "VARCHAR"),
        _sampler("", "t."),
        _own("observation", "VARCHAR"),
        _own("action", "VARCHAR"),
        _own("invalid", "VARCHAR"),
        _own("reward", "DOUBLE"),
        _own("finish", "VARCHAR"),
        ("prompt_tokens", "BIGINT", "shared + len(prompt_ids)", "t.shared + length(t.prompt_ids) / 4"),
        ("action_tokens", "BIGINT", "len(action_ids)", "length(t.action_ids) / 4"),
        _time("made_at", "", "t."),
    ),
)
TOKENS = SqlView(
    name="turn_tokens",
    table="database_tokens",
    columns=(
        _own("episode", "BIGINT"),
        _own("n", "BIGINT"),
        _own("shared", "BIGINT"),
        ("new_ids", "INTEGER[]", "prompt_ids", "t.prompt_ids"),
        _own("action_ids", "INTEGER[]"),
        _own("logprobs", "FLOAT[]"),
    ),
)
VIEWS = (EPISODES, TURNS, TOKENS)
