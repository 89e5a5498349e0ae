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
from perdure.learners.model.adapted_model import AdaptedModel
from perdure.learners.option_parsing import parse_options
from perdure.learners.options import LearnOptions
from perdure.learners.ranks.rank_bytes import read_weights, weight_bytes
from perdure.learners.ranks.ranks import Ranks
from perdure.learners.trainees.trained_weights import Reference
from perdure.learners.trainees.trainee import Trainee, open_trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.errors import InputError

REFERENCES: tuple[Reference, ...] = ("serving",)
"""Beside the base model and a teacher, which every rank makes itself."""
OPENED = b""
"""What a rank answers that has opened its trainee; any other answer is why it could not."""
REFUSED = b"refused: "
"""Begins the answer of a rank that would give it again in another attempt."""
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
    parts = {"start": weight_bytes(opening.start)} | {str(name): weight_bytes(weights) for name, weights in opening.references.items()}
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
    opening = Opening(
        model=head["model"],
        hash=head["hash"],
        learner=head["learner"],
        options=parse_options(head["learner"], head["options"]),
        dtype=getattr(torch, head["dtype"]),
        with_teacher=head["with_teacher"],
        start=weights.pop("start"),
        references={name: weights[name] for name in REFERENCES if name in weights},
    )
    set_up_process(opening.dtype, device)
    return open_rank(ranks, opening, files, device, None), opening.options


def open_rank(ranks: Ranks, opening: Opening, files: ModelFiles, device: str, shared: AdaptedModel | None) -> Trainee:
    """The trainee of any rank; `shared` is the model of an engine in this process. Raises `InputError` as `open_trainee` does."""
    options = opening.options
    torch.manual_seed(options.common.seed)
    if options.tuning.sharded:
        from perdure.learners.ranks.sharded_trainee import open_sharded  # FSDP takes a second to load

        return open_sharded(
            files,
            device=device,
            dtype=opening.dtype,
            options=options,
            start=opening.start,
            references=opening.references,
            with_teacher=opening.with_teacher,
            ranks=ranks,
        )
    return open_trainee(
        files,
        device=device,
        dtype=opening.dtype,
        options=options,
        start=opening.start,
        references=opening.references,
        with_teacher=opening.with_teacher,
        shared=shared,
        ranks=ranks,
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
