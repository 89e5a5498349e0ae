"""The player's side of a gate: it takes errands, plays them on its own engine, and gives back their scores.

It decides nothing, and does not know what an answer is compared with. Where errands come from is an `ErrandDesk`: the store on this machine
(`store_desk.py`), or the journal of the head. Left out: when a player asks for errands, and when for live tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from perdure.envs.environment import Environment
from perdure.envs.policy import PolicyError
from perdure.envs.rollout import Journal
from perdure.learners.gate.engine_player import HeldOutModel, HeldOutPlay, play_held_out
from perdure.learners.gate.player import Sampling, Scores
from perdure.learners.learning_job import Interrupted
from perdure.memory.errands.errand_records import Errand
from perdure.memory.errors import InputError, LeaseLost, PerdureError
from perdure.memory.records import Lease


class ErrandDesk(Protocol):
    """Where a player gets errands, and brings what they came to."""

    def take(self, limit: int) -> list[Errand]:
        """Up to `limit` errands of one batch; none if nothing waits."""
        ...

    def playing(self, errands: Sequence[Errand], lost: Callable[[], None]) -> AbstractContextManager[Journal]:
        """The journal of their episodes. Until it is left the errands are kept; `lost` is called once they are not."""
        ...

    def end(self, ended: Sequence[tuple[Lease, Scores]]) -> None:
        """Write their scores. Raises `LeaseLost` if they are held no more."""
        ...

    def give_back(self, held: Sequence[Lease], error: str | None) -> None:
        """Let others play them; `error` is why, if it was no orderly stop."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrandMeans:
    """What a player plays with."""

    model: HeldOutModel
    load: Callable[[str], Environment]
    at_once: int
    """Draws at once; all answers to one are played together."""
    stop: Callable[[], bool]
    each_round: Callable[[], None]


def play_errands(errands: Sequence[Errand], means: ErrandMeans, journal: Journal) -> list[Scores]:
    """The scores of errands of one batch, in their order. Episodes are journaled under the lease of the job.

    Raises `Interrupted` if the player was asked to stop, and what stopped it otherwise: `PolicyError`, `RuntimeFailure`, `UnknownError`.
    """
    if not errands:
        return []
    terms, job = errands[0].terms, errands[0].job
    if any((errand.terms, errand.job) != (terms, job) for errand in errands):
        raise InputError("errands of different batches cannot be played together: take those of one")
    held_out = HeldOutPlay(
        model=means.model,
        load=means.load,
        journal=journal,
        lease=job,
        purpose=terms.purpose,
        sampling=Sampling(temperature=terms.temperature, samples=terms.samples),
        serving=terms.serving,
        width=means.at_once * terms.samples,
        stop=means.stop,
        each_round=means.each_round,
    )
    draws = [(errand.environment, errand.seed) for errand in errands]
    return play_held_out(held_out, terms.version, draws, [errand.group for errand in errands])


def judge_once(desk: ErrandDesk, means: ErrandMeans, limit: int) -> int:
    """Take errands, play them and bring their scores; returns how many there were, 0 if nothing waits.

    What cannot be played here goes back with the reason, and the error is passed on. Errands that were lost meanwhile are somebody else's:
    their scores are dropped. Raises `Interrupted` once `means.stop()` is true; the errands are given back then.
    """
    errands = desk.take(limit)
    if not errands:
        return 0
    held, lost = [errand.lease for errand in errands], list[bool]()
    here = ErrandMeans(
        model=means.model,
        load=means.load,
        at_once=means.at_once,
        stop=lambda: bool(lost) or means.stop(),
        each_round=means.each_round,
    )
    try:
        with desk.playing(errands, lambda: lost.append(True)) as journal:
            scores = play_errands(errands, here, journal)
            desk.end(list(zip(held, scores, strict=True)))
    except (LeaseLost, Interrupted) as error:
        desk.give_back(held, None)  # those that are still ours
        if isinstance(error, Interrupted) and not lost:
            raise
    except (PolicyError, PerdureError) as error:
        desk.give_back(held, " ".join(str(error).split()) or type(error).__name__)
        raise
    return len(errands)
