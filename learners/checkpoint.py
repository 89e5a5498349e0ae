"""The checkpoint of a learning job, written after every update, so that an interrupted attempt resumes.

It is one file in the home, `run/jobs/<number>.pt`, replaced with an atomic rename and removed when the job ends; if the process died, when
the next job ends. It begins with a checksum, and reading it runs no code. A process that lost its job may still replace it once, with an
earlier step of the same job. If it is damaged, the job starts over, and an event says why (`run_learning.py`).
"""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from perdure.memory.errors import RuntimeFailure, Unavailable
from perdure.memory.files import MAKING, publish
from perdure.memory.trajectories.traces import NEWEST

CHECKSUM_BYTES = 4

Made = TypeVar("Made")


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
    newest: int = NEWEST
    """The id of the newest episode when the job began: live play that came later is not read, so that a resumed job reads the same."""
    step: int = 0
    """The updates made so far."""
    groups: int = 0
    """Played so far, so that later ones have other tasks."""
    target_groups: int = 0
    """Those of targets, which take turns across batches."""
    chosen: tuple[int, ...] = ()
    """Stored episodes that the job learns from, if any; those of `loops/trace_sft.py` newest first."""
    learned: bool = False
    """Whether any update so far had something to learn from; set by the learner."""
    checked: dict[str, int] = field(default_factory=dict)
    """Episodes of each environment in a check, fixed at the start; empty without checks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """All that a job needs to resume."""

    progress: Progress
    state: TrainingState


def write_checkpoint(home: Path, job: int, checkpoint: Checkpoint) -> None:
    """Write the checkpoint in place of the job's last one. Raises `Unavailable` if the disk is full."""
    state = {field.name: getattr(checkpoint.state, field.name) for field in fields(checkpoint.state)}
    document = {"progress": asdict(checkpoint.progress), "state": state}
    write_checked(job_file(home, job, "pt"), document, f"the checkpoint of job {job} after update {checkpoint.progress.step}")


def read_checkpoint(home: Path, job: int) -> Checkpoint | None:
    """The job's last checkpoint; None before its first update. Raises `RuntimeFailure` for a damaged file."""
    return read_checked(
        job_file(home, job, "pt"),
        lambda found: Checkpoint(**{**found, "progress": Progress(**found["progress"]), "state": TrainingState(**found["state"])}),
    )


def remove_other_checkpoints(home: Path, jobs: Iterable[int]) -> None:
    """Remove the files of all jobs but these."""
    wanted = {str(job) for job in jobs}
    for file in job_file(home, 0, "pt").parent.glob("*.pt"):
        if file.name.split(".")[0] not in wanted:
            file.unlink(missing_ok=True)


def job_file(home: Path, job: int, suffix: str) -> Path:
    """A file that a job keeps until it ends; the suffix ends in `pt`."""
    return home / "run" / "jobs" / f"{job}.{suffix}"


def write_checked(final: Path, document: Mapping[str, Any], what: str) -> None:
    """Write tensors and plain values with a checksum, in place of an older file. Raises `Unavailable` if the disk is full."""
    made = final.with_name(f"{MAKING}{final.name}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        with _Summing(io.FileIO(made, "w")) as file:
            file.seek(CHECKSUM_BYTES)
            torch.save(document, file)
            checksum = file.crc.to_bytes(CHECKSUM_BYTES)
            file.seek(0)
            file.write(checksum)
        publish(made, final)
    except OSError as error:
        raise Unavailable(f"could not save {what}: {error.strerror or error}") from error


def read_checked(file: Path, make: Callable[[dict[str, Any]], Made]) -> Made | None:
    """What `make` makes of a file that `write_checked` wrote; None if there is none. Raises `RuntimeFailure` for a damaged file."""
    if not file.is_file():
        return None
    content = file.read_bytes()
    if content[:CHECKSUM_BYTES] != zlib.crc32(memoryview(content)[CHECKSUM_BYTES:]).to_bytes(CHECKSUM_BYTES):
        raise RuntimeFailure(f"{file} is damaged")
    try:
        return make(torch.load(io.BytesIO(content[CHECKSUM_BYTES:]), map_location="cpu", weights_only=True))
    except (RuntimeError, TypeError, KeyError, pickle.UnpicklingError) as error:
        raise RuntimeFailure(f"{file} was written by another release ({type(error).__name__})") from error


def state_bytes(state: TrainingState) -> bytes:
    """A state for the other ranks of a job."""
    return tensor_bytes({"parameters": list(state.parameters), "optimizer": state.optimizer, "teacher": list(state.teacher)})


def read_state(content: bytes) -> TrainingState:
    """The state of `state_bytes`."""
    return TrainingState(**read_tensors(content))


def tensor_bytes(document: Any) -> bytes:
    """Tensors and plain values in torch's own form."""
    file = io.BytesIO()
    torch.save(document, file)
    return file.getvalue()


def read_tensors(content: bytes) -> Any:
    """What `tensor_bytes` wrote, on the CPU. Runs no code that the bytes name."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _Summing(io.BufferedWriter):
    """A file that computes a checksum while it is written: a checkpoint of full tuning takes three times the model's memory."""

    crc = 0

    def write(self, part: Any) -> int:
        self.crc = zlib.crc32(part, self.crc)
        return super().write(part)
