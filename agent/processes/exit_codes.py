"""The exit code with which a child says why it ends.

Left out: how the supervisor explains the end of a child that could not say so (`agent/supervision/causes.py`).
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Literal, NoReturn

from perdure.memory.errors import InputError, PerdureError, RuntimeFailure, Unavailable

Cause = Literal["stopped", "crashed", "refused", "failed", "unavailable", "out of memory", "broken GPU", "killed", "hung"]
"""stopped: it was asked to end. crashed: a mistake in the code that it ran. refused: its input or configuration cannot work. failed: the
machine or the home cannot do it. unavailable: a full disk, a locked store. killed: by a signal from outside. hung: no progress."""

EXIT_CODES: dict[Cause, int] = {
    "stopped": 0,
    "crashed": 1,
    "refused": 2,
    "failed": 3,
    "unavailable": 4,
    "out of memory": 5,
    "broken GPU": 6,
}

TRANSIENT: frozenset[Cause] = frozenset({"stopped", "unavailable", "out of memory", "broken GPU", "killed"})
"""Not the fault of the work (a full disk, a kill, ...): it may succeed when it is tried again."""

LINE_LIMIT = 500

_NO_MEMORY = ("MemoryError", "OutOfMemoryError")
_NO_GPU = ("AcceleratorError",)


def die_of(error: Exception) -> NoReturn:
    """End this process because of an error: a line for people, an exit code for the supervisor.

    At once and without cleaning up, which may hang on a broken GPU or without memory. The store needs no cleaning up.
    """
    try:
        if not isinstance(error, PerdureError):
            sys.stderr.write("".join(traceback.format_exception(error)))  # at once: one entry of a log as JSON
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
    finally:
        os._exit(EXIT_CODES[cause_of_error(error)])


def cause_of_error(error: BaseException) -> Cause:
    """The cause of an end by this error. Torch's errors are known by name, since not every process loads torch."""
    text = str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds.intersection(_NO_MEMORY) or "DefaultCPUAllocator" in text:  # on a CPU torch raises a plain RuntimeError
        return "out of memory"
    if kinds.intersection(_NO_GPU) or "CUDA error" in text or "CUDNN_STATUS" in text:
        return "broken GPU"
    if isinstance(error, Unavailable) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        return "unavailable"
    if isinstance(error, PerdureError):
        return "refused" if isinstance(error, InputError) else "failed"
    return "crashed"


def one_line(error: BaseException) -> str:
    """The text of an error in one line of limited length; starts with its kind if it is not one of ours."""
    text = " ".join(str(error).split())[:LINE_LIMIT]
    if isinstance(error, InputError | RuntimeFailure):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
