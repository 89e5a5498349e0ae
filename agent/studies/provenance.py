"""Which program made a result: the commit of the clone that it runs from, or its version."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from perdure import __version__

PACKAGE = Path(__file__).resolve().parents[1]
GIT_TIMEOUT_S = 10


@cache
def made_by() -> str:
    """`git describe` of the clone, with `-dirty` if its files were changed since the commit; `perdure 0.1.0` outside of one."""
    try:
        found = subprocess.run(
            ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
        )
        tracked = subprocess.run(
            ["git", "-C", str(PACKAGE), "ls-files", "--error-unmatch", str(Path(__file__).resolve())],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return f"perdure {__version__}"
    is_clone = found.returncode == 0 and tracked.returncode == 0  # else the package lies in another project's clone
    return found.stdout.strip() if is_clone else f"perdure {__version__}"
