"""What the first rank does at the beginning and at the end of a job: it has the others open the same as itself, and tells them to end.

One rank alone opens its trainee here too, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from perdure.learners.model.adapted_model import AdaptedModel
from perdure.learners.ranks.opening import OPENED, REFUSED, Opening, open_rank, opening_bytes
from perdure.learners.ranks.ranks import Ranks, leads
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import InputError, Unavailable


def open_first(ranks: Ranks, opening: Opening, files: ModelFiles, device: str, shared: AdaptedModel | None) -> Trainee:
    """The trainee of the first rank; the others open the same. `shared` is the engine's model.

    Raises `InputError` as `open_trainee` does, and if another rank has other files or releases; `Unavailable` if it fails otherwise.
    """
    if leads(ranks):
        ranks.tell("open", opening_bytes(opening))
    trainee = open_rank(ranks, opening, files, device, shared)
    for number, answer in enumerate(ranks.gather(OPENED)):
        if answer != OPENED:
            why = answer.removeprefix(REFUSED).decode(errors="replace")
            error = InputError if answer.startswith(REFUSED) else Unavailable
            raise error(f"rank {number} of this job cannot take part: {why}")
    return trainee


@contextmanager
def ending(ranks: Ranks) -> Iterator[None]:
    """Tell the other ranks to end when this ends, however it does."""
    try:
        yield
    finally:
        with suppress(Unavailable):  # they are gone already
            ranks.tell("end")
