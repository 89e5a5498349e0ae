"""`perdure sql`: one question in SQL, answered by DuckDB from the database and the shards. It reads, and cannot do anything else.

DuckDB runs in memory, and reads shards in their place. Rows that are still in the database are handed over as Arrow tables, and only those
of the views that the question names: DuckDB's own reader of SQLite would be a second SQLite in this process, and closing its file would
drop the locks of ours; its extension is also fetched from the network, or fits one older release alone. A question is a single SELECT. It
can open no file but the shards: access to anything else is off, extensions cannot be loaded, and none of this can be set back. Memory has
a limit, and nothing is spilled to the disk. Left out: the views (`sql_views.py`).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.history.checked_shards import lost_shards
from perdure.memory.history.shard_files import shard_schema
from perdure.memory.history.shard_index import Run, Shard, episodes_left, runs_outside, shards
from perdure.memory.history.shard_places import ShardPlace, shard_place
from perdure.memory.history.sql_views import EPISODES, VIEWS, SqlView
from perdure.memory.json_value import storable, to_json
from perdure.memory.layout.digests import raw_texts
from perdure.memory.layout.packed_lists import unpacked_lists
from perdure.memory.store import Store

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Result = TypeVar("Result")
INTERRUPT_S = 0.02
LEAST_MEMORY = 512 * 2**20
ROWS_AT_ONCE = 4096
_SETTINGS = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "preserve_insertion_order": "false",
}
_ONLY = "`perdure sql` takes one SELECT, which reads the views episodes, turns and turn_tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlAnswer:
    """The answer to one question."""

    columns: tuple[str, ...]
    """Each name once: a second one of a name gets a number."""
    rows: Iterator[tuple[Any, ...]]
    lost: tuple[str, ...]
    """What is wrong with the shards that could not be read: their turns are missing in the answer."""


@contextmanager
def ask_sql(store: Store, question: str, *, memory_bytes: int | None = None) -> Iterator[SqlAnswer]:
    """Ask a question; the rows are read while the block runs.

    Raises `InputError` if it is not one SELECT, or wrong, or DuckDB is not installed, and `RuntimeFailure` if it needs more memory than
    `memory_bytes`; by default a quarter of the machine's.
    """
    require_duckdb()
    limit = _memory_limit() if memory_bytes is None else memory_bytes
    with _told(limit), closing(_connection(limit)) as duck:
        _require_select(duck, question)
        with store.read():  # of one moment: an archive that runs moves turns in one transaction
            every = shards(store)
            lost = lost_shards(store, [shard for shard in every if shard.pruned_episodes < shard.episodes])
            _make_views(duck, store, [shard for shard in every if shard.id not in lost])
            asked, outside = _asked(question), runs_outside(store)
            turnless = [run for shard in every if shard.id in lost for run in shard.runs]  # the database still has their episodes
            for view in asked:
                _fill(duck, store, view, [*outside, *turnless] if view is EPISODES else outside)
        _interruptible(duck, lambda: duck.execute(question))
        columns = tuple(_distinct([str(column[0]) for column in duck.description or ()]))
        yield SqlAnswer(columns=columns, rows=_rows(duck), lost=tuple(sorted(set(lost.values()))))


def require_duckdb() -> None:
    """Raise `InputError` if DuckDB is not installed."""
    try:
        import duckdb  # noqa: F401 - its absence is told here, in one line
    except ImportError as error:
        raise InputError("SQL needs DuckDB: python -m pip install 'perdure[history]'") from error


def _connection(limit: int) -> duckdb.DuckDBPyConnection:
    import duckdb

    return duckdb.connect(":memory:", config={**_SETTINGS, "memory_limit": f"{limit}B"})


def _require_select(duck: duckdb.DuckDBPyConnection, question: str) -> None:
    import duckdb

    if "\0" in question or question != storable(question):
        raise InputError("the question has a character that is no text (NUL, or half of one): take it out")
    kinds = [statement.type for statement in duck.extract_statements(question)]
    if kinds == [duckdb.StatementType.MULTI]:
        raise InputError("this PIVOT does not say for which values: add IN (...) after the column")
    if kinds != [duckdb.StatementType.SELECT]:
        named = "nothing" if not kinds else "several statements" if len(kinds) > 1 else kinds[0].name.replace("_", " ")
        raise InputError(f"{_ONLY}; this is {named}")


def _asked(question: str) -> Sequence[SqlView]:
    """The views that a question reads, which DuckDB finds on empty ones; all, if it does not find out."""
    import duckdb

    with closing(_connection(LEAST_MEMORY)) as empty:
        for view in VIEWS:
            empty.execute(view.table_sql())
            empty.execute(view.view_sql([]))
        _lock(empty)
        try:
            named = empty.get_table_names(question)
        except duckdb.Error:  # asked in earnest, it is answered, or the error is told
            return VIEWS
    return [view for view in VIEWS if view.table in named]


def _make_views(duck: duckdb.DuckDBPyConnection, store: Store, readable: Sequence[Shard]) -> None:
    """Make the views over these shards, and then let nothing else be read or set."""
    import pyarrow.dataset as ds

    groups: dict[tuple[int | None, bool], list[ShardPlace]] = {}
    kept: list[int] = []
    for shard in readable:
        if shard.pruned_episodes == shard.episodes:
            continue
        if shard.pruned_episodes:
            kept += episodes_left(store, shard)
        place = shard_place(store.home, shard.place)
        groups.setdefault((None if place.file is not None else id(place.filesystem), shard.pruned_episodes > 0), []).append(place)
    duck.execute("CREATE TABLE kept (episode BIGINT)")
    _append(duck, "kept", {"episode": kept}, {"episode": "BIGINT"})
    sources: list[str] = []
    for n, ((bucket, is_partly_pruned), places) in enumerate(groups.items()):
        source = f"read_parquet({_texts(place.path for place in places)}, hive_partitioning = false)"
        if bucket is not None:
            source = f"bucket_{n}"
            paths = [place.path for place in places]
            duck.register(source, ds.dataset(paths, filesystem=places[0].filesystem, format="parquet", schema=shard_schema()))
        sources.append(f"(SELECT * FROM {source} WHERE episode IN (SELECT episode FROM kept))" if is_partly_pruned else source)
    duck.execute(f"SET allowed_paths = {_texts(place.path for places in groups.values() for place in places if place.file is not None)}")
    for view in VIEWS:
        duck.execute(view.table_sql())
        duck.execute(view.view_sql(sources))
    _lock(duck)


def _lock(duck: duckdb.DuckDBPyConnection) -> None:
    duck.execute("SET enable_external_access = false")
    duck.execute("SET lock_configuration = true")


def _fill(duck: duckdb.DuckDBPyConnection, store: Store, view: SqlView, runs: Sequence[Run]) -> None:
    """Hand over the rows of the database, of the episodes in these runs of ids."""
    kinds = {name: kind for name, kind, _, _ in view.columns}
    with store.read() as conn, raw_texts(conn):
        cursor = conn.execute(view.database_sql(), {"runs": to_json([list(run) for run in runs])})
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            _append(duck, view.table, dict(zip(view.names, zip(*rows, strict=True), strict=True)), kinds)


def _append(duck: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, Sequence[Any]], kinds: Mapping[str, str]) -> None:
    import pyarrow as pa

    duck.register("handed_over", pa.table({name: _array(values, kinds[name]) for name, values in columns.items()}))
    duck.execute(f"INSERT INTO {table} SELECT * FROM handed_over")
    duck.unregister("handed_over")


def _array(values: Sequence[Any], kind: str) -> pa.Array:
    """Values of SQLite as an Arrow array of one of DuckDB's types."""
    import pyarrow as pa

    match kind:
        case "INTEGER[]" | "FLOAT[]":
            return unpacked_lists(values, pa.list_(pa.int32() if kind == "INTEGER[]" else pa.float32()))
        case "VARCHAR":
            return pa.array([None if value is None else value.decode(errors="replace") for value in values], pa.string())
        case "TIMESTAMP":
            return pa.array(values, pa.timestamp("us"))
        case "DOUBLE":
            return pa.array(values, pa.float64())
    return pa.array(values, pa.int64())


def _rows(duck: duckdb.DuckDBPyConnection) -> Iterator[tuple[Any, ...]]:
    while rows := _interruptible(duck, lambda: duck.fetchmany(ROWS_AT_ONCE)):
        yield from rows


def _interruptible(duck: duckdb.DuckDBPyConnection, work: Callable[[], Result]) -> Result:
    """What `work` returns. It runs in a thread: DuckDB does not always look whether Ctrl-C was pressed, and this thread does."""
    with ThreadPoolExecutor(1, "sql") as thread:
        future = thread.submit(work)
        try:
            return future.result()
        except BaseException:
            while not future.done():  # an interrupt that comes before the work has begun is forgotten
                duck.interrupt()
                time.sleep(INTERRUPT_S)
            raise


def _distinct(names: Iterable[str]) -> Iterator[str]:
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}_{seen[name]}"


def _texts(texts: Iterable[str]) -> str:
    """A list of texts in SQL."""
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"


def _memory_limit() -> int:
    return max(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4, LEAST_MEMORY)


@contextmanager
def _told(limit: int) -> Iterator[None]:
    """DuckDB's errors in one line, with what to do."""
    import duckdb

    try:
        yield
    except (duckdb.InterruptException, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "interrupted" not in str(error).lower():
            raise
        raise KeyboardInterrupt from error
    except duckdb.OutOfMemoryException as error:
        raise RuntimeFailure(
            f"the question needs more than {limit / 2**20:.0f} MiB of memory: filter or aggregate more; or move turns out of the database "
            "with `perdure store archive`, if it asks for texts of many"
        ) from error
    except duckdb.PermissionException as error:
        raise InputError(f"{_ONLY}, and no other file: {_line(error)}") from error
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        raise InputError(f"{_line(error)}; `perdure sql 'describe episodes'` shows columns, and so for turns and turn_tokens") from error
    except (duckdb.IOException, duckdb.InternalException, duckdb.FatalException) as error:
        raise RuntimeFailure(f"DuckDB could not answer: {_line(error)}") from error
    except duckdb.Error as error:
        raise InputError(_line(error)) from error


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip()
