"""A bounded part of the fault suite: each point once, and a few kills. All of it is `make faults`."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import get_args

import pytest
from tests.faults import cases
from tests.faults.games import CHAIN
from tests.faults.invariants import Findings
from tests.faults.place import ROOT, Place
from tests.faults.table import BEGIN, END, Row, Table, markdown, write_between_markers
from tests.tiny_models import tiny_llama

from perdure.memory.faults import Point
from perdure.memory.schema import MIGRATIONS


def placed() -> Iterator[str]:
    """The name in every `faults.point(...)` of the program."""
    for folder in ("memory", "envs", "learners", "agent"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                match node:
                    case ast.Call(func=ast.Attribute(value=ast.Name(id="faults"), attr="point"), args=[ast.Constant(value=str(name))]):
                        yield name


def test_every_point_is_placed_once_and_has_one_case() -> None:
    found = Counter(placed())
    assert found == Counter(get_args(Point))
    assert Counter(cases.points_with_a_case()) == found


@pytest.mark.slow
def test_each_point_once_and_a_few_kills(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    table = Table(limit_s=20.0)  # `make faults` asks for less, on a machine that does nothing else
    starting = [Place(tmp_path / f"start-{n}", model) for n, _ in enumerate(MIGRATIONS)]
    playing, learning, gating = (Place(tmp_path / name, model) for name in ("play", "learn", "gate"))
    forking = Place(tmp_path / "environment", model, environments=(CHAIN,))

    def play() -> None:
        for n, place in enumerate(starting, start=1):
            cases.start(place, *cases.AT_START, n, table)
        for point in cases.PLAYING:
            cases.play(playing, point, Random(point), table)

    def learn() -> None:
        learning.serves_after(learning.start())
        cases.learn(learning, cases.LEARNING[0], Random(0), table)
        cases.kill_learner_and_supervisor(learning, Random(1), table)
        for fault in cases.COMMANDS:
            cases.command(learning, fault, table)
        cases.rest(learning)

    def gate() -> None:
        gating.serves_after(gating.start())
        for points in cases.LEARNING[1:]:
            cases.learn(gating, points, Random(0), table)
        cases.rest(gating)

    def environment() -> None:
        forking.serves_after(forking.start())
        for n in range(3):
            cases.kill_environment(forking, Random(n), table)
        cases.rest(forking)

    try:
        with ThreadPoolExecutor() as pool:
            for lane in [pool.submit(play), pool.submit(learn), pool.submit(gate), pool.submit(environment)]:
                lane.result()
    finally:
        for place in (*starting, playing, learning, gating, forking):
            place.end()
    assert table.broken == []
    assert {row.fault for row in table.rows()} == set(cases.all_faults())


def test_a_row_says_what_is_broken_and_the_table_sums_up(tmp_path: Path) -> None:
    table = Table(limit_s=5.0)
    table.add("mid-batch", 1.0, Findings())
    table.add("mid-batch", 2.0, Findings(lost=3, broken=("a rule",)))
    table.add("kill -9", 6.0, Findings(twice=1, doubled=1))
    assert table.broken == [
        "mid-batch: a rule",
        "mid-batch: 3 turns lost",
        "kill -9: 1 members completed twice",
        "kill -9: 1 episodes in two batches",
        "kill -9: it took 6.0 s to serve again, and not under 5",
    ]
    text = markdown(table.rows())
    assert "| mid-batch | 2 | 3 | 0 | 0 | 1 | 1.50 s | 2.00 s |" in text
    assert text.endswith("| **all** | 3 | 3 | 1 | 1 | 1 |  |  |")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        write_between_markers(page, text)
    assert page.read_text() == f"before\n{BEGIN}\n\n{text}\n\n{END}\nafter\n"


def test_serving_again_is_not_asked_for_in_time_where_no_limit_is_given() -> None:
    assert Row("a", None, [100.0], [Findings()]).broken == []
