"""Files that are there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def publish(made: Path, final: Path) -> None:
    """Name the finished folder `made` `final` once all in it is on the disk. Raises `OSError`, also where `final` has content."""
    for path in (*made.iterdir(), made):
        _fsync(path)
    made.rename(final)
    _fsync(final.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
