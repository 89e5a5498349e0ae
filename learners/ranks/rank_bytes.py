"""What ranks send each other, as bytes: lessons and statistics as JSON, tensors in torch's own form, which is read without running code.

JSON writes every float so that it is read as the same number; infinities and what is no number are written too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from perdure.learners.batch_steps import Batch
from perdure.learners.batches import Lesson, Turns
from perdure.learners.checkpoint import read_tensors, tensor_bytes
from perdure.learners.gradients import Measured
from perdure.learners.weights.weight_sets import LoraPair, Weights


def batch_bytes(batch: Batch) -> bytes:
    """A batch, with all that every rank needs to learn from it."""
    document = {
        "lessons": [asdict(lesson) for lesson in batch.lessons],
        "measured": [asdict(one) for one in batch.measured],
        "taught": [[n, batch.taught[lesson]] for n, lesson in enumerate(batch.lessons) if lesson in batch.taught],
        "most_tokens": batch.most_tokens,
        "passes": batch.passes,
        "lr": batch.lr,
    }
    return json.dumps(document).encode()


def read_batch(content: bytes) -> Batch:
    """The batch of `batch_bytes`."""
    found = json.loads(content)
    lessons = [_lesson(one) for one in found["lessons"]]
    return Batch(
        lessons=lessons,
        measured=[Measured(turns=_turns(one["turns"]), is_old=one["is_old"]) for one in found["measured"]],
        taught={lessons[n]: _turns(turns) for n, turns in found["taught"]},
        most_tokens=found["most_tokens"],
        passes=found["passes"],
        lr=found["lr"],
    )


def memory_bytes(memories: Sequence[Sequence[Lesson]]) -> bytes:
    """The lessons of each old environment."""
    return json.dumps([[asdict(lesson) for lesson in memory] for memory in memories]).encode()


def read_memories(content: bytes) -> list[list[Lesson]]:
    """The memories of `memory_bytes`."""
    return [[_lesson(one) for one in memory] for memory in json.loads(content)]


def weight_bytes(weights: Weights) -> bytes:
    """Weights of a version."""
    pairs = {name: [one.down_RI, one.up_OR, one.scale] for name, one in weights.items() if isinstance(one, LoraPair)}
    return tensor_bytes({"pairs": pairs, "tensors": {name: one for name, one in weights.items() if isinstance(one, Tensor)}})


def read_weights(content: bytes) -> Weights:
    """The weights of `weight_bytes`."""
    found = read_tensors(content)
    pairs = {name: LoraPair(down_RI=down, up_OR=up, scale=scale) for name, (down, up, scale) in found["pairs"].items()}
    return {**pairs, **found["tensors"]}


def _lesson(found: dict[str, Any]) -> Lesson:
    logprobs = found["sampler_logprobs"]
    return Lesson(
        **{
            **found,
            "turns": _turns(found["turns"]),
            "sampler_logprobs": None if logprobs is None else tuple(logprobs),
            "cut_turns": tuple(found["cut_turns"]),
        }
    )


def _turns(found: Any) -> Turns:
    return tuple((tuple(prompt), tuple(action)) for prompt, action in found)
