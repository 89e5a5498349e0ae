"""A piece in a process of its own on this machine, as its parent sees it: started, asked to end, killed, and how it ended.

Both placements use this: the local one in the process that places, Ray's in an actor on the node. Left out: the piece's own side
(`piece_program.py`).
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Mapping
from contextlib import suppress

from perdure.agent.cluster.placement import ClusterPiece, PieceEnd
from perdure.agent.processes.child import PARENT_VARIABLE
from perdure.agent.supervision.children import CHILD_ENVIRONMENT

LAST_WORDS_S = 5.0
"""How long what a dead process has written may take to be read."""


class PieceProcess:
    """A running piece. `changed` is called, in a thread of its own, when it said something and when it ended."""

    def __init__(
        self,
        piece: ClusterPiece,
        changed: Callable[[], None],
        environment: Mapping[str, str] | None = None,
        program: str = "perdure.agent.cluster.piece_program",
    ) -> None:
        """`program` is the module that does the work; who sends an order has no say in it."""
        self.key = piece.key
        self.said = ""
        """The last line that it said."""
        self.end: PieceEnd | None = None
        self._changed = changed
        self._stopped = False
        self._answer: bytes | None = None
        self._error: str | None = None
        self._lock = threading.Lock()
        threads = {"OMP_NUM_THREADS": str(max(1, math.ceil(piece.needs.cpus)))}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", program, piece.kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**CHILD_ENVIRONMENT, **threads, **os.environ, **(environment or {}), PARENT_VARIABLE: str(os.getpid())},
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, args=(piece.order,), name=f"reports of {piece.key}", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, name=f"end of {piece.key}", daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """Ask it to end, and kill it after `grace_s`. Does not wait."""
        self._stopped = True
        self._signal(signal.SIGTERM)
        if grace_s <= 0:
            self._signal(signal.SIGKILL)
            return
        killer = threading.Timer(grace_s, self._signal, (signal.SIGKILL,))
        killer.daemon = True
        killer.start()

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(self.pid, number)

    def _read(self, order: bytes) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(order)
        with self._process.stdout as stdout:
            for line in stdout:
                with suppress(ValueError):
                    self._take(json.loads(line))

    def _take(self, report: dict[str, str]) -> None:
        if "answer" in report:
            self._answer = b64decode(report["answer"])
        elif "error" in report:
            self._error = report["error"]
        else:
            self.said = report["said"]
            self._changed()

    def _wait(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        self._signal(signal.SIGKILL)  # those that it started, before another process can get its number
        with self._lock:
            code = self._process.wait()
        self._reader.join(LAST_WORDS_S)
        self.end = self._ended(code)
        self._changed()

    def _ended(self, code: int) -> PieceEnd:
        if self._answer is not None:
            return PieceEnd(key=self.key, answer=self._answer)
        if self._error is not None:
            return PieceEnd(key=self.key, error=self._error)
        if self._stopped and code < 0:
            return PieceEnd(key=self.key, error="it was asked to end, did not in time, and was killed")
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            return PieceEnd(key=self.key, error=f"its process was ended by {name}", lost=True)
        return PieceEnd(key=self.key, error=f"its process ended with exit code {code} and without an answer; its log tells why")
