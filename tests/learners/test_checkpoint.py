"""Checkpoints: read back unchanged or reported as damaged; and a trainee that resumes from one."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from tests.learners.conftest import copied, random_adapter, trainee_of
from tests.results import SELECTION
from torch import Tensor

from perdure.learners.checkpoint import Checkpoint, Progress, TrainingState, read_checkpoint, remove_other_checkpoints, write_checkpoint
from perdure.learners.selection.kept_step import KeptStep, read_choice, read_kept_step, write_choice, write_kept_step
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.errors import RuntimeFailure, Unavailable

STATE = TrainingState(parameters=[torch.arange(6.0)], optimizer={}, teacher=[])
NO_STATE = TrainingState(parameters=[], optimizer={}, teacher=[])
PROGRESS = Progress(start="v1", serving="v2", updates=12, step=3, groups=7, target_groups=4, chosen=(9, 5))
LATER = Checkpoint(progress=PROGRESS, state=STATE)
EARLIER = Checkpoint(progress=replace(PROGRESS, step=2, groups=0, target_groups=0), state=NO_STATE)
TURNS = [((5, 6, 7), (8, 9)), ((5, 6), (10, 11, 12))]


def test_a_checkpoint_is_read_back_and_replaced(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path, 1) is None
    write_checkpoint(tmp_path, 1, EARLIER)
    write_checkpoint(tmp_path, 1, LATER)
    found = read_checkpoint(tmp_path, 1)
    assert found is not None
    assert torch.equal(found.state.parameters[0], torch.arange(6.0))
    assert replace(found, state=NO_STATE) == replace(LATER, state=NO_STATE)
    assert [file.name for file in (tmp_path / "run" / "jobs").iterdir()] == ["1.pt"]


def test_only_jobs_that_have_not_ended_keep_a_checkpoint(tmp_path: Path) -> None:
    for job in (1, 2, 3):
        write_checkpoint(tmp_path, job, LATER)
        write_kept_step(tmp_path, job, KeptStep(step=3, attempt=1, parameters=[torch.arange(4.0)]))
        write_choice(tmp_path, job, SELECTION)
    remove_other_checkpoints(tmp_path, [2, 9])
    assert sorted(file.name for file in (tmp_path / "run" / "jobs").iterdir()) == ["2.best.pt", "2.choice.pt", "2.pt"]
    remove_other_checkpoints(tmp_path / "elsewhere", [])


def test_the_kept_step_and_the_choice_are_read_back_and_replaced(tmp_path: Path) -> None:
    assert read_kept_step(tmp_path, 1) is None
    assert read_choice(tmp_path, 1) is None
    for step in (3, 6):
        write_kept_step(tmp_path, 1, KeptStep(step=step, attempt=2, parameters=[torch.arange(float(step))]))
    kept = read_kept_step(tmp_path, 1)
    assert kept is not None
    assert (kept.step, kept.attempt) == (6, 2)
    assert torch.equal(kept.parameters[0], torch.arange(6.0))
    write_choice(tmp_path, 1, SELECTION)
    assert read_choice(tmp_path, 1) == SELECTION
    (tmp_path / "run" / "jobs" / "1.choice.pt").write_bytes(b"text")
    with pytest.raises(RuntimeFailure, match="is damaged"):
        read_choice(tmp_path, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:1],
        lambda content: content[:100],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"\0" * len(content),
        lambda content: content.replace(b"chosen", b"ch\0sen"),
        lambda content: content[: len(content) // 2] + b"\0" * (len(content) - len(content) // 2),
        lambda content: content.replace(struct.pack("<f", 5.0), struct.pack("<f", 6.0)),
        lambda content: b"text\n" * 1000,
    ],
)
def test_a_damaged_checkpoint_is_an_error_that_says_so(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    write_checkpoint(tmp_path, 1, LATER)
    file = tmp_path / "run" / "jobs" / "1.pt"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RuntimeFailure, match=r"1\.pt is damaged"):
        read_checkpoint(tmp_path, 1)


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    "content",
    [
        {"step": Runs()},
        {"step": 1, "other": 2},
        {"progress": {"step": 1}, "state": {}},
        {"progress": asdict(PROGRESS), "state": {"parameters": [], "optimizer": {}, "teacher": []}, "other": 2},
        7,
    ],
)
def test_a_checkpoint_of_another_form_is_refused_and_no_code_in_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    monkeypatch.chdir(tmp_path)
    made = io.BytesIO()
    torch.save(content, made)
    file = tmp_path / "run" / "jobs" / "1.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(zlib.crc32(made.getvalue()).to_bytes(4) + made.getvalue())
    with pytest.raises(RuntimeFailure, match=r"1\.pt was written by another release"):
        read_checkpoint(tmp_path, 1)
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(Unavailable, match="could not save the checkpoint of job 1 after update 3"):
        write_checkpoint(tmp_path, 1, LATER)


def stepped(trainee: Trainee, times: int) -> None:
    for _ in range(times):
        (-trainee.logprobs(TURNS, 1.0).sum()).backward()
        trainee.step(0.01, 1.0)
        if "teacher" in trainee.references:
            trainee.follow(0.3)


def flat(trainee: Trainee) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainee.parameters])


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_trainee_goes_on_with_its_optimiser_and_its_slow_teacher(
    tmp_path: Path, llama: ModelFiles, tuning: Literal["lora", "full"]
) -> None:
    """Three steps equal one and then two through a file, for the teacher too."""
    start = copied(random_adapter(trainee_of(llama), 3, 0.1).weights()) if tuning == "lora" else {}
    assert all(isinstance(pair, LoraPair) for pair in start.values())

    def fresh() -> Trainee:
        return trainee_of(llama, start=start, with_teacher=True, tuning=tuning, teacher="slow")

    whole, first, second = fresh(), fresh(), fresh()
    stepped(whole, 3)
    stepped(first, 1)
    write_checkpoint(tmp_path, 1, replace(LATER, state=first.state()))
    checkpoint = read_checkpoint(tmp_path, 1)
    assert checkpoint is not None
    second.resume(checkpoint.state)
    stepped(second, 2)
    assert torch.equal(flat(second), flat(whole))
    with torch.no_grad():
        expected = whole.logprobs(TURNS, 1.0, "teacher")
        assert torch.equal(second.logprobs(TURNS, 1.0, "teacher"), expected)
        assert not torch.allclose(fresh().logprobs(TURNS, 1.0, "teacher"), expected), "it has moved"


def test_a_frozen_teacher_is_not_kept(llama: ModelFiles) -> None:
    assert trainee_of(llama, with_teacher=True).state().teacher == []
