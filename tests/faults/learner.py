"""The real learner, which can be told to die at a point: `python -m tests.faults.learner --home DIR --job N`.

Only a job that learns takes a fault: the gate by which the watch on live play confirms an alarm has other points, and comes when it likes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.arming import take_fault

from perdure.agent.processes.job import main
from perdure.memory.store import open_store


def given(option: str) -> str:
    return sys.argv[sys.argv.index(option) + 1]


def learns(home: Path, job: int) -> bool:
    with open_store(home, reading=True) as store:
        return bool(store.rows("SELECT 1 FROM job WHERE id = ? AND kind = 'learn'", (job,)))


if __name__ == "__main__":
    home = Path(given("--home"))
    if learns(home, int(given("--job"))):
        take_fault(home, "learner")
    raise SystemExit(main())
