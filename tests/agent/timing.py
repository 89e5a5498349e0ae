"""How long a process takes on a machine that does other things as well."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def timed(command: Sequence[str | Path], *, cwd: Path | None = None, text: str = "") -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a command; gives also the seconds that it takes where it need not wait for a core: those that it spent in line are taken off."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        given.write(text)
        given.seek(0)
        started = time.monotonic()
        with subprocess.Popen(command, cwd=cwd, stdin=given, stdout=out, stderr=err) as process:
            try:
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                wall_s = time.monotonic() - started
                in_line_s = int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e9
            finally:
                process.kill()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(process.args, process.returncode, out.read(), err.read()), wall_s - in_line_s
