"""Named points of the cycle at which the fault suite kills a process, as kill -9 would.

`PERDURE_FAULT=mid-promotion` kills the process when it first reaches that point, `PERDURE_FAULT=mid-batch:7` when it reaches it for the
seventh time. Without the variable, a point costs one look-up in the environment. Used by `tests/faults/`.
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
    "before-answer",
    "after-answer",
    "mid-optimiser-step",
    "between-step-and-checkpoint",
    "mid-candidate-write",
    "between-file-and-row",
    "mid-panel",
    "mid-pairs",
    "mid-gate",
    "mid-election",
    "between-verdict-and-promotion",
    "mid-promotion",
    "mid-rollback",
    "mid-change",
    "mid-migration",
    "mid-prune",
    "mid-backup",
    "mid-shard",
    "between-shard-and-index",
    "mid-archive",
]

_passed: Counter[str] = Counter()


def point(name: Point) -> None:
    """Kill this process here if `PERDURE_FAULT` names this point."""
    chosen, _, times = os.environ.get(VARIABLE, "").partition(":")
    if chosen == name:
        _passed[name] += 1
        if _passed[name] == int(times or 1):
            os.kill(os.getpid(), signal.SIGKILL)
