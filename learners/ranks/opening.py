"""The first word of the first rank: with which model, weights and options the others open the same trainee.

It names the releases of Perdure and torch, and the model by name and hash; a rank that has others says so, and the job ends with both
named. Left out: the model's own weights, which every rank reads from its disk or fetches as the first did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from perdure.learners.hardware import set_up_process
from perdure.learners.option_parsing import parse_options
from perdure.learners.options import LearnOptions
from perdure.learners.ranks.rank_bytes import read_weights, weight_bytes
from perdure.learners.ranks.ranks import Ranks
from perdure.learners.trainees.trained_weights import Reference
from perdure.learners.trainees.trainee import Trainee, open_trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.errors import InputError

OPENED = b""
"""What a rank answers that has opened its trainee; any other answer is an error."""
HEAD_BYTES = 8
"""In which the length of what precedes the weights is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What every rank of a job opens."""

    model: str
    hash: str
    learner: str
    options: LearnOptions
    dtype: torch.dtype
    with_teacher: bool
    start: Weights
    references: Mapping[Reference, Weights]


def opening_bytes(opening: Opening) -> bytes:
    """The opening, for the other ranks."""
    parts = {"start": weight_bytes(opening.start), **{name: weight_bytes(weights) for name, weights in opening.references.items()}}
    head = {
        "releases": releases(),
        "model": opening.model,
        "hash": opening.hash,
        "learner": opening.learner,
        "options": opening.options.flat(),
        "dtype": str(opening.dtype).removeprefix("torch."),
        "with_teacher": opening.with_teacher,
        "sizes": {name: len(part) for name, part in parts.items()},
    }
    written = json.dumps(head).encode()
    return len(written).to_bytes(HEAD_BYTES) + written + b"".join(parts.values())


def open_like_first(content: bytes, device: str, ranks: Ranks, find: Callable[[str], ModelFiles]) -> tuple[Trainee, LearnOptions]:
    """The trainee of a rank that is not the first; `find` gives a model by name.

    Raises `InputError` if this process has another release or another model than the first rank.
    """
    end = HEAD_BYTES + int.from_bytes(content[:HEAD_BYTES])
    head = json.loads(content[HEAD_BYTES:end])
    if head["releases"] != releases():
        raise InputError(f"it has {_listed(releases())}, and the first rank {_listed(head['releases'])}: install the same on every node")
    files = find(head["model"])
    if files.hash != head["hash"]:
        raise InputError(
            f"its model {files.name} in {files.path} has the hash {files.hash[:12]}, and the first rank's {head['hash'][:12]}: give every "
            "node the same files"
        )
    weights: dict[str, Weights] = {}
    for name, size in head["sizes"].items():
        weights[name] = read_weights(content[end : end + size])
        end += size
    options = parse_options(head["learner"], head["options"])
    dtype: torch.dtype = getattr(torch, head["dtype"])
    set_up_process(dtype, device)
    torch.manual_seed(options.common.seed)
    references: dict[Reference, Weights] = {"serving": weights["serving"]} if "serving" in weights else {}
    return (
        open_trainee(
            files,
            device=device,
            dtype=dtype,
            options=options,
            start=weights["start"],
            references=references,
            with_teacher=head["with_teacher"],
            ranks=ranks,
        ),
        options,
    )


def releases() -> dict[str, str]:
    """What must be the same on every rank."""
    try:
        perdure = version("perdure")
    except PackageNotFoundError:
        perdure = "not installed"
    return {"perdure": perdure, "torch": torch.__version__, "transformers": version("transformers")}


def _listed(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in found.items())
