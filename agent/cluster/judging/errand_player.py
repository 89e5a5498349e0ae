"""The `Player` of gates and probes that lets others play: draws become errands, and their scores come back in order.

It runs in the job's process, where all decisions are made, one after the other: which draws are played, and what their scores mean, is
none of the players' business. So a verdict is that of one machine for the same answers (`learners/gate/gating.py` cannot tell the two
apart). No wait is for ever: if no player asks, if an errand ends badly too often, or if none ends for long, the job plays itself.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from perdure.agent.cluster.judging.errand_play import ErrandMeans, play_errands
from perdure.learners.gate.player import Draw, Sampling, Scores
from perdure.learners.learning_job import Interrupted, JobRun
from perdure.memory.errands.errand_leases import end_errands, last_asked_s, requeue_lapsed_errands
from perdure.memory.errands.errand_queue import (
    BatchProgress,
    abandon_batch,
    abandon_earlier,
    batch_progress,
    call_back,
    queue_errands,
    scores_of_batch,
    take_back,
)
from perdure.memory.errands.errand_records import Errand, ErrandTerms
from perdure.memory.errors import PerdureError
from perdure.memory.leases import Clock
from perdure.memory.processes import record_event
from perdure.memory.versions import get_version, serving

STUCK_S = 600.0
"""After so long without any end of an errand the job plays the rest of its batch."""
POLL_S = 0.05
LAPSED_EACH_S = 1.0
"""How often it looks for errands of players that fell silent."""


@dataclass(slots=True, kw_only=True)
class ErrandPlayer:
    """`Player` over all who take errands. When it is made, what earlier attempts at the job queued is abandoned; raises `LeaseLost`."""

    run: JobRun
    own: ErrandMeans
    """What the job plays with if nobody else does."""
    purpose: Literal["gate", "probe"]
    sampling: Sampling
    clock: Clock
    nobody_s: float
    """After so long without a question from any player the job plays itself."""
    stuck_s: float = STUCK_S
    _serving: str = field(init=False)
    """The version that served when this player was made: it is the opponent 'serving' of both sides."""
    _began_s: float = field(init=False)
    _alone: bool = False

    def __post_init__(self) -> None:
        self._serving = serving(self.run.store).name
        self._began_s = self.clock.now_s()
        abandon_earlier(self.run.store, self.run.lease)

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        """The scores of the answers to each draw, wherever they were given. Raises `Interrupted`, and `LeaseLost` if the job is lost."""
        if not draws:
            return []
        store, lease = self.run.store, self.run.lease
        get_version(store, version)
        for environment in dict.fromkeys(name for name, _ in draws):
            self.own.load(environment)  # its code is noted, so that a player with another one is refused
        terms = ErrandTerms(
            version=version,
            serving=self._serving,
            purpose=self.purpose,
            temperature=self.sampling.temperature,
            samples=self.sampling.samples,
        )
        batch = queue_errands(store, lease, terms, draws)
        try:
            self._see_to_it(batch)
        except BaseException:
            with suppress(PerdureError):
                abandon_batch(store, lease, batch)
            raise
        return scores_of_batch(store, lease, batch)

    def _see_to_it(self, batch: int) -> None:
        """Wait until all errands of a batch have scores, and play those that nobody else does."""
        store, lease = self.run.store, self.run.lease
        done, stuck, moved_s, looked_s = 0, False, time.monotonic(), time.monotonic()
        while not (progress := batch_progress(store, lease, batch)).complete:
            if self.run.stop():
                raise Interrupted(f"job {lease.subject} was stopped while it waited for held-out tasks")
            self.run.each_round()
            now_s = time.monotonic()
            if progress.done > done:
                done, moved_s = progress.done, now_s
            if not stuck and now_s - moved_s > self.stuck_s:
                stuck = True
                self._call_back(batch)
            elif mine := self._mine(batch, progress, stuck):
                end_errands(store, list(zip([one.lease for one in mine], self._play(mine), strict=True)))
                moved_s = time.monotonic()
            else:
                if now_s - looked_s > LAPSED_EACH_S:
                    looked_s = now_s
                    requeue_lapsed_errands(store, self.clock)
                time.sleep(POLL_S)

    def _mine(self, batch: int, progress: BatchProgress, stuck: bool) -> list[Errand]:
        """Errands of the batch that the job is to play now; none as long as players see to them."""
        alone = self._nobody_asks()
        if alone and progress.waiting and not self._alone:
            line = f"no player has asked for {self.nobody_s:.0f} s: the job plays what is left of its held-out tasks itself, until one asks"
            record_event(self.run.store, "no players", f"job {self.run.lease.subject}", line)
        self._alone = alone
        if not progress.spoilt and not ((alone or stuck) and progress.waiting):
            return []
        return take_back(self.run.store, self.run.lease, batch, self.own.at_once, self.clock, only_spoilt=not (alone or stuck))

    def _nobody_asks(self) -> bool:
        asked = last_asked_s(self.run.store, self.clock)
        since = self._began_s if asked is None else max(asked, self._began_s)
        return self.clock.now_s() - since > self.nobody_s

    def _call_back(self, batch: int) -> None:
        """Players ask, but bring nothing: the job sees to this batch."""
        line = f"no held-out task of its batch had ended for {self.stuck_s:.0f} s, though players ask: the job plays what is left itself"
        record_event(self.run.store, "errands called back", f"job {self.run.lease.subject}", line)
        call_back(self.run.store, self.run.lease, batch, f"none of its batch had ended for {self.stuck_s:.0f} s")

    def _play(self, mine: Sequence[Errand]) -> list[Scores]:
        return play_errands(mine, self.own, self.run.journal)
