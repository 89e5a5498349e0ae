"""Lessons made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from perdure.learners.batches import Lesson, Turns
from perdure.learners.gradients import MicroBatch
from perdure.learners.trainees.lora_weights import LoraWeights
from perdure.learners.trainees.trainee import Trainee


def imitated(n: int, *, seed: int = 0, turns: Sequence[Turns] | None = None) -> list[Lesson]:
    """Lessons to imitate, of one turn and of two, or with these turns."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 280, (length,), generator=generator).tolist())

    made: list[Turns] = list(turns or [])
    while len(made) < n:
        prompt, action = draw(6), draw(2 + len(made) % 3)
        said = [(prompt, action)]
        if len(made) % 2:
            said.append((prompt + action + draw(3), draw(2)))
        made.append(tuple(said))
    return [Lesson(episode=None, environment="e", turns=one, sampler_logprobs=None, imitation=1.0) for one in made]


def even(lessons: Sequence[Lesson], share: float = 1.0) -> list[float]:
    """Weights with which all tokens of these lessons weigh the same, and together `share`."""
    return [share / sum(lesson.tokens for lesson in lessons)] * len(lessons)


def batch_of(trainee: Trainee, lessons: Sequence[Lesson], weights: Sequence[float]) -> MicroBatch:
    """These lessons as one micro-batch."""
    tree = trainee.tree([turn for lesson in lessons for turn in lesson.turns])
    tokens = sum(lesson.tokens for lesson in lessons)
    return MicroBatch(trainee=trainee, lessons=lessons, weights=weights, policy=trainee.predict(tree), tokens=tokens)


def adapter_of(trainee: Trainee) -> LoraWeights:
    """The adapter that a trainee trains."""
    assert isinstance(trainee.trained, LoraWeights)
    return trainee.trained
