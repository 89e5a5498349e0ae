"""The checkpoint of a learning job, written after every update, so that an interrupted attempt resumes.

It is one file in the home, `run/jobs/<number>.pt`, replaced with an atomic rename and removed when the job ends; if the process died, when
the next job ends. It begins with a checksum, and reading it runs no code. A process that lost its job may still replace it once, with an
earlier step of the same job. If it is damaged, the job starts over, and an event says why (`run_learning.py`).
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from perdure.memory.errors import RuntimeFailure, Unavailable
from perdure.memory.files import MAKING, publish

CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """What a trainee needs to resume."""

    parameters: Sequence[Tensor]
    optimizer: dict[str, Any]
    """As torch gives it."""
    teacher: Sequence[Tensor]
    """Of a teacher that moves; otherwise empty."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a job is. It changes with every update; a resumed attempt continues from it."""

    start: str
    """The version that the job started from."""
    serving: str
    """The version that served at the start; KL is measured to it throughout the job."""
    updates: int
    """To be made in all; fewer than the option if fixed data do not suffice for more."""
    step: int = 0
    """The updates made so far."""
    groups: int = 0
    """Played so far, so that later ones have other tasks."""
    target_groups: int = 0
    """Those of targets, which take turns across batches."""
    chosen: tuple[int, ...] = ()
    """Stored episodes that the job learns from, newest first, if any."""
    learned: bool = False
    """Whether any update so far had something to learn from; set by the learner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All that a job needs to resume."""

    progress: Progress
    state: TrainingState


def write_checkpoint(home: Path, job: int, checkpoint: Checkpoint) -> None:
    """Write the checkpoint in place of the job's last one. Raises `Unavailable` if the disk is full."""
    final = _file(home, job)
    made = final.with_name(f"{MAKING}{final.name}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _Summing(io.FileIO(made, "w")) as file:
            file.seek(CHECKSUM_BYTES)
            state = {field.name: getattr(checkpoint.state, field.name) for field in fields(checkpoint.state)}
            torch.save({"progress": asdict(checkpoint.progress), "state": state}, file)
            checksum = file.crc.to_bytes(CHECKSUM_BYTES)
            file.seek(0)
            file.write(checksum)
        publish(made, final)
    except OSError as error:
        raise Unavailable(
            f"could not save the checkpoint of job {job} after update {checkpoint.progress.step}: {error.strerror or error}"
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
        found = torch.load(io.BytesIO(content[CHECKSUM_BYTES:]), map_location="cpu", weights_only=True)
        return Checkpoint(**{**found, "progress": Progress(**found["progress"]), "state": TrainingState(**found["state"])})
    except (RuntimeError, TypeError, KeyError, pickle.UnpicklingError) as error:
        raise RuntimeFailure(f"{file} was written by another release ({type(error).__name__})") from error


def remove_other_checkpoints(home: Path, jobs: Iterable[int]) -> None:
    """Remove the checkpoints of all jobs but these."""
    wanted = {_file(home, job) for job in jobs}
    for file in _file(home, 0).parent.glob("*.pt"):
        if file not in wanted:
            file.unlink(missing_ok=True)


class _Summing(io.BufferedWriter):
    """A file that computes a checksum while it is written: a checkpoint of full tuning takes three times the model's memory."""

    crc = 0

    def write(self, part: Any) -> int:
        self.crc = zlib.crc32(part, self.crc)
        return super().write(part)


def _file(home: Path, job: int) -> Path:
    return home / "run" / "jobs" / f"{job}.pt"
