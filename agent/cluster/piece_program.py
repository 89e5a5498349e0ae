"""The process of one piece: `python -m perdure.agent.cluster.piece_program KIND`, with the order on stdin.

It reports on stdout, one JSON object a line: `said` while it runs, and `answer` (base64) or `error` at its end. What its work prints goes
to stderr. It ends when it is asked to (SIGTERM), and by itself once its parent is gone, as nobody would take its answer. Left out: the
parent's side (`piece_process.py`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Mapping
from json import dumps
from typing import cast

from perdure.agent.cluster.pieces import KINDS, run_piece
from perdure.agent.cluster.placement import Kind
from perdure.agent.processes.child import Stop, parent_pid
from perdure.agent.processes.exit_codes import one_line
from perdure.memory.errors import PerdureError

LOOK_S = 0.5
ORPHAN_GRACE_S = 3.0
"""How long a piece without a parent has to end by itself."""


def main(kinds: Mapping[Kind, str] = KINDS) -> int:
    """Do the work of the kind in the arguments, one of these, and report."""
    reports = os.dup(1)
    os.dup2(2, 1)
    sys.path.append("")  # the working folder, last: as in `agent/cli.py`
    lock = threading.Lock()

    def report(what: str, value: str) -> None:
        line = memoryview(dumps({what: value}).encode() + b"\n")
        with lock:
            while line:
                line = line[os.write(reports, line) :]

    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop.on_signal)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    order = sys.stdin.buffer.read()
    try:
        answer = run_piece(cast(Kind, sys.argv[1]), order, stop, lambda line: report("said", line), kinds)
    except Exception as error:  # noqa: BLE001 - it becomes the error of the piece
        if not isinstance(error, PerdureError):
            sys.stderr.write("".join(traceback.format_exception(error)))
        report("error", one_line(error))
    else:
        report("answer", b64encode(answer).decode())
    return 0


def _end_with_parent() -> None:
    """End this process and those it started soon after its parent has gone."""
    parent = parent_pid()
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_S)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
