"""A bounded part of the fault suite: each point once, and a few kills. All of it is `make faults`; what takes long here is in
`make test-long`."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import get_args

import pytest
from tests.faults import cases
from tests.faults.games import CHAIN, RIGGED
from tests.faults.invariants import Findings
from tests.faults.place import ROOT, Place
from tests.faults.table import BEGIN, END, Row, Table, markdown, write_between_markers
from tests.tiny_models import tiny_llama

from perdure.memory.faults import Point


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A few faults that one daemon's home goes through, one after the other."""

    run: Callable[[Place, Table], None]
    faults: tuple[str, ...]
    """In the order in which they come."""
    environments: tuple[str, ...] = (CHAIN, RIGGED)
    takes_long: bool = False


def starts(point: Point) -> Lane:
    return Lane(run=lambda place, table: cases.start(place, point, table), faults=(point,))


def plays(point: Point) -> Lane:
    return Lane(
        run=lambda place, table: cases.play(place, point, Random(point), table),
        faults=(point, cases.KILLED["supervisor"], cases.KILLED["actor"]),
        takes_long=point != "mid-batch",
    )


def learns(points: dict[Point, int], commands: tuple[cases.CommandFault, ...] = ()) -> Lane:
    """A job, and then commands; the last job of `LEARNING` comes to a promotion, which they can roll back."""

    def run(place: Place, table: Table) -> None:
        place.serves_after(place.start())
        cases.learn(place, points, Random(0), table)
        for fault in commands:
            cases.command(place, fault, table)
        cases.rest(place)

    return Lane(run=run, faults=(*points, *(fault.point for fault in commands)), takes_long=True)


def dies_while_a_job_works(place: Place, table: Table) -> None:
    place.serves_after(place.start())
    cases.kill_learner_and_supervisor(place, Random(1), table)
    cases.rest(place)


def environments(place: Place, table: Table) -> None:
    place.serves_after(place.start())
    for n in range(3):
        cases.kill_environment(place, Random(n), table)
    cases.rest(place)


def pages(place: Place, table: Table) -> None:
    place.serves_after(place.start())
    for fault in (cases.KILLED_PAGE, cases.PAGE_IN_JOB):
        cases.kill_page(place, table, fault)
    cases.rest(place)


LANES: dict[str, Lane] = {
    **{f"starts, {point}": starts(point) for point in cases.AT_START},
    **{f"plays, {point}": plays(point) for point in cases.PLAYING},
    **{f"learns, {next(iter(points))}": learns(points) for points in cases.LEARNING[:-1]},
    "promotes, and commands": learns(cases.LEARNING[-1], cases.COMMANDS),
    "dies while a job works": Lane(run=dies_while_a_job_works, faults=(cases.KILLED["learner"], cases.SUPERVISOR_IN_JOB), takes_long=True),
    "environments": Lane(run=environments, faults=(cases.KILLED_ENVIRONMENT,), environments=(CHAIN,)),
    "pages": Lane(run=pages, faults=(cases.KILLED_PAGE, cases.PAGE_IN_JOB), takes_long=True),
}


def test_the_lanes_bring_about_every_fault() -> None:
    assert {fault for lane in LANES.values() for fault in lane.faults} == set(cases.all_faults())


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("faults") / "model")


@pytest.mark.processes
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * lane.takes_long) for name, lane in LANES.items()])
def test_a_lane_breaks_no_rule(name: str, model: Path, tmp_path: Path) -> None:
    lane = LANES[name]
    table = Table(limit_s=20.0)  # `make faults` asks for less, on a machine that does nothing else
    with Place(tmp_path, model, environments=lane.environments) as place:
        lane.run(place, table)
    assert table.broken == []
    assert tuple(row.fault for row in table.rows()) == lane.faults


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


def test_serving_again_has_no_time_limit_if_none_is_given() -> None:
    assert Row("a", None, [100.0], [Findings()]).broken == []
