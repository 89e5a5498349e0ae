"""Sending payloads to one place, in a thread of its own: a bounded queue, a time limit, and some more tries with pauses between them.

Putting a payload into the queue never waits. Each try is a process, the command of the operator or a small program that makes an HTTP
request (`webhook.py`), since a process can be ended whatever it hangs in: a look-up of a name, a server that sends a byte a minute.
What could not be sent is told to `note`, once. Payloads that wait when the daemon is killed are lost.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

QUEUE_SIZE = 100
TRIES = 4
FIRST_PAUSE_S = 1.0
"""Before the second try; before each next one four times as long."""
SLACK_S = 2.0
"""The start of Python, on top of the time limit of a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a payload could not be sent."""

    why: str
    final: bool = False
    """Another try would fail too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What is run for each try."""

    words: Sequence[str]
    timeout_s: float
    address: str | None = None
    """Where `webhook.py` sends the payload; None for a command, which gets the payload itself on stdin."""


class Channel:
    """One place that payloads are sent to. Its thread begins with the first payload."""

    def __init__(self, name: str, program: Program, note: Callable[[str], None], first_pause_s: float = FIRST_PAUSE_S) -> None:
        self.name = name
        self._program = program
        self._note = note
        self._first_pause_s = first_pause_s
        self._waiting: queue.Queue[tuple[str, bytes] | None] = queue.Queue(QUEUE_SIZE)
        self._dropped = 0
        self._closing = threading.Event()
        self._ended = False
        """Nothing more is tried."""
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"notify {name}", daemon=True)

    def put(self, what: str, payload: bytes) -> None:
        """Send it soon. If the queue is full it is dropped, and that is noted."""
        if self._thread.ident is None:
            self._thread.start()
        try:
            self._waiting.put_nowait((what, payload))
        except queue.Full:
            self._dropped += 1

    def close(self, patience_s: float) -> None:
        """Make a last try with each that waits, for `patience_s` at most, and note how many are left."""
        if self._thread.ident is None:
            return
        deadline = time.monotonic() + patience_s
        self._closing.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(max(deadline - time.monotonic(), 0.0))
        if self._thread.is_alive():
            left = sum(item is not None for item in list(self._waiting.queue)) + 1
            with self._starting:
                self._ended = True
                self._end_process()
            self._note(f"{left} not sent before the end of the daemon")

    def _run(self) -> None:
        while True:
            try:
                item = self._waiting.get(timeout=1.0) if self._closing.is_set() else self._waiting.get()
            except queue.Empty:
                return
            if item is None or self._ended:
                return
            dropped, self._dropped = self._dropped, 0
            if dropped:
                self._note(f"{dropped} dropped: {QUEUE_SIZE} were waiting already")
            self._deliver(*item)

    def _deliver(self, what: str, payload: bytes) -> None:
        pause_s = self._first_pause_s
        for n in range(1, TRIES + 1):
            failure = self._try(payload)
            if failure is None or self._ended:
                return
            if failure.final or n == TRIES or self._closing.wait(pause_s):
                self._note(f"{what} was not sent after {n} {'try' if n == 1 else 'tries'}: {failure.why}")
                return
            pause_s *= 4

    def _try(self, payload: bytes) -> Failure | None:
        program = self._program
        web = program.address is not None
        given = payload
        if web:  # the address goes over stdin: other users of this machine can read arguments
            given = json.dumps({"address": program.address, "timeout_s": program.timeout_s, "body": payload.decode()}).encode()
        try:
            with self._starting:
                if self._ended:
                    return None
                self._process = process = subprocess.Popen(
                    program.words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if web else subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except OSError as error:
            return Failure(why=f"{program.words[0]} cannot be run: {error.strerror}", final=True)
        try:
            said, _ = process.communicate(given, timeout=program.timeout_s + (SLACK_S if web else 0.0))
        except subprocess.TimeoutExpired:
            self._end_process()
            process.communicate()
            return Failure(why=f"it took more than {program.timeout_s:g} s")
        finally:
            self._process = None
        if process.returncode == 0:
            return None
        if web:
            answer = (said or b"").decode(errors="replace").strip()
            return Failure(why=answer.removeprefix(FINAL) or f"exit code {process.returncode}", final=answer.startswith(FINAL))
        return Failure(why=f"{program.words[0]} ended with exit code {process.returncode}")

    def _end_process(self) -> None:
        process = self._process
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


FINAL = "final: "
"""How `webhook.py` begins if another try would fail too."""


def webhook(address: str, timeout_s: float) -> Program:
    """The program that sends payloads to an address."""
    return Program(words=[sys.executable, "-P", "-m", "perdure.agent.telemetry.webhook"], timeout_s=timeout_s, address=address)
