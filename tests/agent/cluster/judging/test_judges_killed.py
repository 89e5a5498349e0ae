"""Judges are real processes here, and are killed with -9: nothing of the verdict changes, and no pair is stored twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.agent.cluster.judging.same_answers import ELSEWHERE, HERE, gated, make_home, work_on

from perdure.memory.errands.errand_leases import errands_now
from perdure.memory.gates import pairs_of
from perdure.memory.leases import BootClock
from perdure.memory.store import Store
from perdure.memory.upkeep.integrity import check

CLOCK = BootClock()
TTL_S = 5.0
TOO_LONG_S = 270.0


@dataclass
class JudgeProcesses:
    """Two judges, of which one that ends is started anew. The first ones kill themselves at a point of the journal."""

    home: Path
    faults: list[str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    killed: list[int] = field(default_factory=list)
    until_s: float = field(default_factory=lambda: time.monotonic() + TOO_LONG_S)

    def look(self) -> None:
        assert time.monotonic() < self.until_s, f"{self.killed}"
        for name in ("judge-1", "judge-2"):
            process = self.running.get(name)
            if process is not None and process.poll() is not None:
                self.killed.append(process.returncode)
            elif process is not None:
                continue
            fault = {"PERDURE_FAULT": self.faults.pop(0)} if self.faults else {}
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.agent.cluster.judging.judge_program", str(self.home), name, str(TTL_S)],
                env={**os.environ, **fault},
            )

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait(timeout=60)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[JudgeProcesses]:
    found = JudgeProcesses(tmp_path / "many", ["mid-batch:2", "mid-ending:3", "after-batch:2"])
    yield found
    found.close()


@pytest.mark.processes
@pytest.mark.long
def test_judges_that_are_killed_change_nothing_in_the_verdict(tmp_path: Path, processes: JudgeProcesses) -> None:
    with make_home(tmp_path / "one") as one, make_home(processes.home) as many:
        expected = gated(work_on(one, "v1", HERE))
        result = gated(work_on(many, "v1", ELSEWHERE, processes.look))
        assert processes.killed[:3] == [-signal.SIGKILL] * 3
        assert result == expected
        assert pairs_of(many, result.gate) == pairs_of(one, expected.gate)
        assert ended_by_judges(many) > 100, "on a slow machine leases may lapse, and the job play some"
        assert states(many)["aborted"] > 0
        assert states(many)["completed"] >= states(one)["completed"]
        doubles = "SELECT 1 FROM episode WHERE state = 'completed' GROUP BY \"group\", member HAVING count(*) > 1"
        assert many.rows(doubles) == []
        assert errands_now(many, CLOCK).waiting == 0
        assert check(many, CLOCK) == []


def ended_by_judges(store: Store) -> int:
    return int(store.rows("SELECT count(*) FROM errand WHERE state = 'done' AND owner LIKE 'judge-%'")[0][0])


def states(store: Store) -> dict[str, int]:
    return {row["state"]: int(row["n"]) for row in store.rows("SELECT state, count(*) AS n FROM episode GROUP BY state")}
