"""The rows of a study as files for other programs: observations as CSV and Parquet, the facts of stages as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from perdure.agent.metrics.observation import ResultTable
from perdure.memory.files import making

OBSERVATION_COLUMNS = ("arm", "order", "seed", "stage", "update", "subject", "item", "measure", "score")
FACTS_COLUMNS = ("arm", "order", "seed", "stage", "targets", "updates", "tokens", "seconds", "verdict", "note")


def write_rows(table: ResultTable, folder: Path) -> list[Path]:
    """Write `observations.csv`, `observations.parquet` and `stages.csv` into a folder, in place of older ones, and give their paths.

    Raises `RuntimeFailure` if they cannot be written.
    """
    observations = [
        (row.arm, row.order, row.seed, row.stage, row.update, row.subject, row.item, row.measure, float(row.score))
        for row in table.observations
    ]
    facts = [
        (row.arm, row.order, row.seed, row.stage, ";".join(row.targets), row.updates, row.tokens, row.seconds, row.verdict, row.note)
        for row in table.facts
    ]
    paths = [folder / "observations.csv", folder / "observations.parquet", folder / "stages.csv"]
    with making(paths[0], replace=True) as path:
        _write_csv(path, OBSERVATION_COLUMNS, observations)
    with making(paths[1], replace=True) as path:
        _write_parquet(path, observations)
    with making(paths[2], replace=True) as path:
        _write_csv(path, FACTS_COLUMNS, facts)
    return paths


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """An empty field is a null."""
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _write_parquet(path: Path, rows: Sequence[tuple[object, ...]]) -> None:
    """Names as dictionaries: they repeat, and readers that know Arrow get categories."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, whole = pa.dictionary(pa.int32(), pa.string()), pa.int64()
    types = (names, names, whole, whole, whole, names, pa.string(), names, pa.float64())
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(types)
    arrays = [
        pa.array(column, pa.string()).dictionary_encode() if type_ is names else pa.array(column, type_)
        for column, type_ in zip(columns, types, strict=True)
    ]
    schema = pa.schema(list(zip(OBSERVATION_COLUMNS, types, strict=True)))
    pq.write_table(pa.table(arrays, schema=schema), path, compression="zstd")
