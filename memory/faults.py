"""Named points of the cycle at which the fault suite ends a process, as kill -9 would.

`PERDURE_FAULT=mid-promotion` ends the process when it first comes to that point, `PERDURE_FAULT=mid-batch:7` when it comes there for the
seventh time. Where the variable is not set, a point costs one look at the environment. `tests/faults/` uses them.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Literal

VARIABLE = "PERDURE_FAULT"

Point = Literal[
    "mid-lease",
    "after-lease",
    "mid-batch",
    "after-batch",
    "mid-ending",
    "mid-optimiser-step",
    "between-step-and-keep",
    "mid-candidate-write",
    "between-file-and-row",
    "mid-pairs",
    "mid-gate",
    "between-verdict-and-promotion",
    "mid-promotion",
    "mid-rollback",
    "mid-migration",
    "mid-prune",
    "mid-backup",
]

_passed: Counter[str] = Counter()


def point(name: Point) -> None:
    """End this process here, at once and without a word, where `PERDURE_FAULT` says so."""
    asked, _, times = os.environ.get(VARIABLE, "").partition(":")
    if asked == name:
        _passed[name] += 1
        if _passed[name] == int(times or 1):
            os.kill(os.getpid(), signal.SIGKILL)
