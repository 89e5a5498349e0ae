"""A rank that is not the first: it does what the first rank tells it, until the job ends or the first rank is gone.

It has no home and writes nothing. Model and options come with the first rank's opening (`opening.py`), lessons with each batch.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.learners.batch_steps import Retention, learn_batch
from perdure.learners.checkpoint import read_state
from perdure.learners.options import LearnOptions
from perdure.learners.ranks.opening import OPENED, REFUSED, open_like_first
from perdure.learners.ranks.process_group import ProcessGroup
from perdure.learners.ranks.rank_bytes import read_batch, read_memories
from perdure.learners.retention.retention_terms import terms_with
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import InputError, RuntimeFailure


def follow(
    group: ProcessGroup, device: str, find: Callable[[str], ModelFiles], stop: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Follow the first rank to the end of its job; `find` gives a model by name, `say` takes a line about what is done.

    Raises `Unavailable` if the first rank is gone, and what else ends this rank, which the first is told.
    """
    try:
        _follow(group, device, find, stop, say)
    except Exception as error:
        group.explain(f"{type(error).__name__}: {error}")
        raise


def _follow(
    group: ProcessGroup, device: str, find: Callable[[str], ModelFiles], stop: Callable[[], bool], say: Callable[[str], None]
) -> None:
    here = f"rank {group.number} of {group.count}"
    say(f"{here} waits for the first")
    opened: tuple[Trainee, LearnOptions] | None = None
    retention, batches = Retention(), 0
    while True:
        what, content = group.told(stop)
        if what == "end":
            return
        if what == "open":
            opened, retention = _opened(group, content, device, find), Retention()
            continue
        if opened is None:
            raise RuntimeFailure(f"the first rank says {what!r} before it has said what to open")
        trainee, options = opened
        match what:
            case "retention":
                retention = terms_with(trainee, options, read_memories(content))
            case "resume":
                trainee.resume(read_state(content))
            case "batch":
                batches += 1
                say(f"{here} learns from batch {batches}")
                with group.reporting():
                    learn_batch(trainee, read_batch(content), options, retention)
                trainee.release_memory()
            case "restart":
                trainee.restart()
            case "follow":
                trainee.follow(float(content))
            case "gather":
                trainee.state()


def _opened(group: ProcessGroup, content: bytes, device: str, find: Callable[[str], ModelFiles]) -> tuple[Trainee, LearnOptions]:
    """Open what the first rank says, and tell it whether that was possible."""
    try:
        opened = open_like_first(content, device, group, find)
    except Exception as error:
        group.gather((REFUSED if isinstance(error, InputError) else b"") + f"{type(error).__name__}: {error}".encode())
        raise
    group.gather(OPENED)
    return opened
