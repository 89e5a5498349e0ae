"""What the control groups of this process allow it: processors and memory, as in a container with limits. Linux only; elsewhere no limit.

The group of the process and all groups above it are read, of version 2 and of version 1: the smallest limit holds.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
NO_LIMIT_BYTES = 2**60
"""Version 1 writes a number about 2**63 if there is no limit."""


def usable_cores(own: Path = OWN, mount: Path = MOUNT) -> int:
    """How many processors this process may keep busy at once, at least 1: those it may run on, and no more than its quota of time."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota(own, mount))))


def cpu_quota(own: Path = OWN, mount: Path = MOUNT) -> float:
    """The processor time that it may take, in processors; infinite without a quota."""
    shares = [math.inf]
    for folder, version in _groups("cpu", own, mount):
        if version == 2:
            quota, _, period = _text(folder / "cpu.max").partition(" ")
        else:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            shares.append(int(quota) / int(period))
    return min(shares)


def memory_limit_bytes(own: Path = OWN, mount: Path = MOUNT) -> int | None:
    """The memory that it may take; None without a limit."""
    limits = []
    for folder, version in _groups("memory", own, mount):
        limit = _text(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        if limit.isdigit() and int(limit) < NO_LIMIT_BYTES:
            limits.append(int(limit))
    return min(limits, default=None)


def _groups(controller: str, own: Path, mount: Path) -> Iterator[tuple[Path, int]]:
    """The folders of its group and of those above, with the version. In a container the path may be one of the host: then only the top."""
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, version = mount, 2
        elif controller in controllers.split(","):
            top, version = mount / controller, 1
        else:
            continue
        parts = PurePosixPath(path).parts[1:]
        for n in range(len(parts), -1, -1):
            yield top.joinpath(*parts[:n]), version


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
