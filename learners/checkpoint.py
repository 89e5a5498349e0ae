"""What a learning job keeps of its last update, so that an attempt that is interrupted is gone on with and not begun anew.

One file in the home, `run/jobs/<number>.pt`, replaced by an atomic rename after every update and removed when the job has ended, or with
the end of the next one where its process died. It begins with a checksum, which torch does not look for, and is read back without running
code. A process that has lost its job may still replace it once; what is in it then is an earlier step of the same job. One that is damaged
is as good as none: the job learns from its start again, and an event says why (`learning.py`).
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from perdure.memory.errors import RuntimeFailure, Unavailable
from perdure.memory.files import MAKING, publish

CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where a job has come to."""

    step: int
    start: str
    """The version that it started from."""
    serving: str
    """The version that served then, and may serve no more."""
    state: dict[str, Any]
    """Of the trainee: parameters and optimiser."""
    counts: tuple[int, int]
    """Groups so far, as the workbench counts them, so that the next ones are others."""
    chosen: tuple[int, ...]
    """Stored episodes that it learns from, where it has chosen some."""
    learned: bool = False
    """Whether any update so far had something to learn from."""


def write_checkpoint(home: Path, job: int, checkpoint: Checkpoint) -> None:
    """Write the checkpoint in place of the job's last one. Raises `Unavailable` if the disk is full."""
    final = _file(home, job)
    made = final.with_name(f"{MAKING}{final.name}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _Summing(io.FileIO(made, "w")) as file:
            file.seek(CHECKSUM_BYTES)
            torch.save({field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}, file)
            checksum = file.crc.to_bytes(CHECKSUM_BYTES)
            file.seek(0)
            file.write(checksum)
        publish(made, final)
    except OSError as error:
        raise Unavailable(
            f"could not save the checkpoint of job {job} after update {checkpoint.step}: {error.strerror or error}"
        ) from error


def read_checkpoint(home: Path, job: int) -> Checkpoint | None:
    """The job's last checkpoint; None before its first update. Raises `RuntimeFailure` for a damaged file."""
    file = _file(home, job)
    if not file.is_file():
        return None
    content = file.read_bytes()
    if content[:CHECKSUM_BYTES] != zlib.crc32(memoryview(content)[CHECKSUM_BYTES:]).to_bytes(CHECKSUM_BYTES):
        raise RuntimeFailure(f"{file} is damaged")
    try:
        return Checkpoint(**torch.load(io.BytesIO(content[CHECKSUM_BYTES:]), map_location="cpu", weights_only=True))
    except (RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise RuntimeFailure(f"{file} is of another release ({type(error).__name__})") from error


def remove_other_checkpoints(home: Path, jobs: Iterable[int]) -> None:
    """Remove the checkpoints of all jobs but these."""
    wanted = {_file(home, job) for job in jobs}
    for file in _file(home, 0).parent.glob("*.pt"):
        if file not in wanted:
            file.unlink(missing_ok=True)


class _Summing(io.BufferedWriter):
    """A file that sums up what is written to it: a checkpoint of full tuning is three times the model, and need not stand in memory."""

    crc = 0

    def write(self, part: Any) -> int:
        self.crc = zlib.crc32(part, self.crc)
        return super().write(part)


def _file(home: Path, job: int) -> Path:
    return home / "run" / "jobs" / f"{job}.pt"
