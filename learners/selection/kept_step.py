"""What a learning job keeps for its end: the weights of its best step so far, and the choice that it made.

Both are files in the home beside the job's checkpoint, and are removed with it. The weights are written when a step becomes the best, and
so neither take memory nor make each checkpoint larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from perdure.learners.checkpoint import job_file, read_checked, write_checked
from perdure.memory.contracts.json_form import read_selection
from perdure.memory.contracts.results import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptStep:
    """The weights of one step."""

    step: int
    attempt: int
    """Of the job, that made it: another attempt at the same step has other weights."""
    parameters: Sequence[Tensor]
    """As the trainee has them."""


def write_kept_step(home: Path, job: int, kept: KeptStep) -> None:
    """Write it in place of the one before. Raises `Unavailable` if the disk is full."""
    document = {"step": kept.step, "attempt": kept.attempt, "parameters": kept.parameters}
    write_checked(job_file(home, job, "best.pt"), document, f"the weights of step {kept.step} of job {job}")


def read_kept_step(home: Path, job: int) -> KeptStep | None:
    """The best step so far; None if there is none. Raises `RuntimeFailure` for a damaged file."""
    return read_checked(job_file(home, job, "best.pt"), lambda found: KeptStep(**found))


def write_choice(home: Path, job: int, chosen: Selection) -> None:
    """Write the choice, for the result of the job, which may be another attempt's. Raises `Unavailable` if the disk is full."""
    write_checked(job_file(home, job, "choice.pt"), asdict(chosen), f"which step of job {job} is its candidate")


def read_choice(home: Path, job: int) -> Selection | None:
    """The choice; None if there is none. Raises `RuntimeFailure` for a damaged file."""
    return read_checked(job_file(home, job, "choice.pt"), read_selection)
