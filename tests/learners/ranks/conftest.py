"""Ranks in processes of their own; the first is the process of the test."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perdure.learners.ranks.leading import ending
from perdure.learners.ranks.process_group import Door, ProcessGroup, RankOrder, order_bytes

PROGRAM = "tests.learners.ranks.rank_program"


@contextmanager
def ranks_in_processes(count: int, folder: Path, limit_s: float = 120.0) -> Iterator[tuple[ProcessGroup, list[subprocess.Popen[bytes]]]]:
    """The first of so many ranks, and the processes of the others."""
    door = Door("127.0.0.1", count, limit_s)
    others = []
    for number in range(1, count):
        order = RankOrder(meeting=door.meeting, number=number, device="cpu")
        with (folder / f"rank-{count}-{number}.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", PROGRAM, str(folder)], stdin=subprocess.PIPE, stdout=log, stderr=log)
        assert process.stdin is not None
        process.stdin.write(order_bytes(order))
        process.stdin.close()
        others.append(process)
    try:
        group = door.join("cpu", 120.0)
        try:
            with ending(group):
                yield group, others
        finally:
            group.close()
        for process in others:
            process.wait(30)
    finally:
        for process in others:
            process.kill()
            process.wait()


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.long)])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessGroup]:
    """The first of two, then of three ranks."""
    with ranks_in_processes(request.param, tmp_path_factory.mktemp("ranks")) as (group, _):
        yield group
