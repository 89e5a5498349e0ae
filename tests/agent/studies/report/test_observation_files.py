"""The files have every row of the study as it is."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet as pq
from tests.agent.studies.report.made_studies import stream_cells

from perdure.agent.metrics.observation import Observation, ResultTable, read_table
from perdure.agent.studies.report.observation_files import write_rows


def made_table() -> ResultTable:
    return read_table(row for rows in stream_cells({"naive": 0.5, "replay": 0.1}, seeds=2).values() for row in rows)


def test_csv_and_parquet_have_the_same_rows_as_the_study(tmp_path: Path) -> None:
    table = made_table()
    in_csv, in_parquet, stages = write_rows(table, tmp_path)
    with in_csv.open(newline="") as lines:
        read = list(csv.DictReader(lines))
    from_csv = [
        Observation(
            arm=row["arm"],
            order=row["order"],
            seed=int(row["seed"]),
            stage=int(row["stage"]),
            update=int(row["update"]) if row["update"] else None,
            subject=row["subject"],
            item=row["item"],
            measure=row["measure"],
            score=float(row["score"]),
        )
        for row in read
    ]
    assert from_csv == list(table.observations)
    assert [Observation(**row) for row in pq.read_table(in_parquet).to_pylist()] == list(table.observations)
    with stages.open(newline="") as lines:
        facts = list(csv.DictReader(lines))
    assert [(row["arm"], row["targets"], int(row["tokens"]), row["verdict"]) for row in facts] == [
        (fact.arm, ";".join(fact.targets), fact.tokens, fact.verdict) for fact in table.facts
    ]


def test_files_are_replaced_and_nothing_unfinished_stays(tmp_path: Path) -> None:
    write_rows(made_table(), tmp_path)
    write_rows(ResultTable(observations=(), facts=()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["observations.csv", "observations.parquet", "stages.csv"]
    assert pq.read_table(tmp_path / "observations.parquet").num_rows == 0
    assert (tmp_path / "stages.csv").read_text().count("\n") == 1
