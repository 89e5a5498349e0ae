"""The desk of a player on the machine that has the home: errands straight from the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from perdure.agent.processes.lease_renewal import renewing
from perdure.envs.rollout import Journal
from perdure.learners.gate.player import Scores
from perdure.memory.errands.errand_leases import end_errands, lease_errands, release_errands, renew_errands
from perdure.memory.errands.errand_records import ERRAND_TTL_S, Errand
from perdure.memory.leases import TTL_S, Clock
from perdure.memory.records import Lease
from perdure.memory.store import Store
from perdure.memory.trajectories.journal import StoreJournal

KEPT_EACH = 0.25
"""Errands are renewed after this share of their time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDesk:
    """`ErrandDesk` on the store."""

    store: Store
    owner: str
    """The player, by a name that no other process has."""
    clock: Clock
    ttl_s: float = ERRAND_TTL_S

    def take(self, limit: int) -> list[Errand]:
        return lease_errands(self.store, self.owner, limit, self.ttl_s, self.clock)

    @contextmanager
    def playing(self, errands: Sequence[Errand], lost: Callable[[], None]) -> Iterator[Journal]:
        held = [errand.lease for errand in errands]

        def keep(own: Store) -> None:
            renew_errands(own, held, self.ttl_s, self.clock)

        with renewing(self.store.home, self.owner, keep, lost, self.ttl_s * KEPT_EACH):
            yield StoreJournal(self.store, self.clock, TTL_S, errands=held, errand_ttl_s=self.ttl_s)

    def end(self, ended: Sequence[tuple[Lease, Scores]]) -> None:
        end_errands(self.store, ended)

    def give_back(self, held: Sequence[Lease], error: str | None) -> None:
        release_errands(self.store, held, error)
