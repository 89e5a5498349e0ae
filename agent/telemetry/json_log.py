"""Logs as JSON: one object a line, with time, level, process, message, and the ids that it is about.

In a child everything that Python writes comes through here: logging, warnings, prints, tracebacks. What is written past Python goes into
the log as it is: the stacks of a crash, and what C libraries print. A message is inert: its control characters are visible, and the line
is ASCII. Left out: what a daemon says of its work (`json_report.py`).
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType

from perdure.agent.processes.process_names import JOB_PREFIX
from perdure.agent.show.terminal import visible

IDS = ("episode", "task", "job", "update", "gate", "version", "environment")
"""The keys of ids; a logger gives them with `extra`."""
MOST_CHARACTERS = 8000
"""A longer message is cut."""
STDERR = 2

Id = int | str


def json_line(process: str, level: str, message: str, ids: Mapping[str, Id | None], at: float | None = None) -> str:
    """One line, without its end. Ids that are None are left out."""
    shown = visible(message)
    if len(shown) > MOST_CHARACTERS:
        shown = f"{shown[:MOST_CHARACTERS]}... ({len(shown) - MOST_CHARACTERS} more characters)"
    when = datetime.fromtimestamp(time.time() if at is None else at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    known = {
        name: visible(value)[:MOST_CHARACTERS] if isinstance(value, str) else value for name, value in ids.items() if value is not None
    }
    return json.dumps({"time": when, "level": level, "process": process, "message": shown, **known})


def plain_line(line: str) -> str:
    """The message of a line of a log, whichever form it has."""
    if not line.startswith('{"time": '):
        return line
    try:
        return str(json.loads(line)["message"])
    except (ValueError, LookupError):  # a log that was cut
        return line


def ids_of_process(name: str) -> dict[str, Id | None]:
    """What a process is about, as its name says."""
    number = name.removeprefix(JOB_PREFIX)
    return {"job": int(number)} if name != number and number.isdigit() else {}


class JsonStream(io.TextIOBase):
    """What stands for stdout and stderr: each line that is printed becomes an object; of a text of several lines, one for all."""

    encoding = "utf-8"

    def __init__(self, process: str, descriptor: int = STDERR) -> None:
        self._process = process
        self._descriptor = descriptor
        self._begun = threading.local()

    def write(self, text: str) -> int:
        begun = getattr(self._begun, "text", "") + text
        if begun.endswith("\n") or len(begun) > MOST_CHARACTERS:
            self._begun.text = ""
            if begun.strip():
                self.say("error" if begun.startswith(("error: ", "Traceback ")) else "info", begun.rstrip("\n"))
        else:
            self._begun.text = begun
        return len(text)

    def say(self, level: str, message: str, ids: Mapping[str, Id | None] | None = None) -> None:
        """Write one object. A full disk takes no log, which is no reason to fail."""
        line = json_line(self._process, level, message, {**ids_of_process(self._process), **(ids or {})})
        try:
            os.write(self._descriptor, f"{line}\n".encode("ascii"))
        except OSError:
            return

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True


class JsonHandler(logging.Handler):
    """Records of logging, warnings included, on a stream."""

    def __init__(self, stream: JsonStream) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception as error:  # noqa: BLE001 - a library's call that does not fit its own format
            message = f"{record.msg} ({type(error).__name__}: {error})"
        if record.exc_info and record.exc_info[0] is not None:
            message += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        given = {name: getattr(record, name) for name in IDS if getattr(record, name, None) is not None}
        self._stream.say(record.levelname.lower(), message, given)


def write_json_logs(process: str) -> None:
    """From now on all that Python writes in this process is JSON on its stderr."""
    stream = JsonStream(process)
    sys.stdout = sys.stderr = stream
    logging.root.handlers[:] = [JsonHandler(stream)]
    logging.captureWarnings(True)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        stream.say("error", "".join(traceback.format_exception(kind, error, trace)).rstrip())

    sys.excepthook = uncaught
    threading.excepthook = lambda found: uncaught(found.exc_type, found.exc_value or found.exc_type(), found.exc_traceback)
