"""A player without a model, and gates that it plays on a real store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

from perdure.learners.gate.gating import GateCase, GateWork, run_gate
from perdure.learners.gate.player import Draw, Scores
from perdure.learners.gate.scope import PROFILES, GateSettings
from perdure.memory import gates, jobs, versions
from perdure.memory.contracts.orders import Consequence, GateOrder
from perdure.memory.contracts.results import GateResult
from perdure.memory.leases import BootClock
from perdure.memory.records import Lease
from perdure.memory.store import Store

ROOT = 7
OLD = tuple(f"old{k}" for k in range(5))
ANCHORS = dict.fromkeys(OLD, "v1")
STANDARD = PROFILES["standard"]


@dataclass
class SkilledPlayer:
    """Solves a task if its skill in that environment is above what the seed asks for: the same for every version."""

    skill: Callable[[str, str], float]
    """Of a version in an environment."""
    broken: Callable[[str, str, int], bool] = lambda version, environment, seed: False
    """Whether nothing can be scored."""
    asked: list[tuple[str, list[Draw]]] = field(default_factory=list)

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        self.asked.append((version, list(draws)))
        return [
            (None if self.broken(version, name, seed) else float(Random(f"{name} {seed}").random() < self.skill(version, name)),)
            for name, seed in draws
        ]

    def episodes(self, version: str) -> int:
        return sum(len(draws) for asked, draws in self.asked if asked == version)


def held(version: str, environment: str) -> float:
    """Everybody solves nine in ten of the old ones; the new one is solved by the candidate only."""
    return 0.9 if environment in OLD else float(version == "v2")


numbers = count()


def lease(store: Store) -> Lease:
    job = jobs.add_job(store, f"gate {next(numbers)}", ["new"], GateOrder(candidate="v1"))
    leased = jobs.lease_job(store, "me", 60.0, BootClock(), job)
    assert leased is not None
    return leased[1]


def gate_it(
    store: Store,
    play: SkilledPlayer,
    *,
    candidate: str = "v2",
    under: Lease | None = None,
    anchors: Mapping[str, str] = ANCHORS,
    trained: Collection[str] = ("new",),
    scores: Mapping[str, float] | None = None,
    settings: GateSettings = STANDARD,
    leads_to: Consequence = "nothing",
    said: list[str] | None = None,
) -> GateResult:
    under = under or lease(store)
    case = GateCase(
        candidate=versions.get_version(store, candidate),
        serving=versions.serving(store),
        settings=settings,
        anchors=anchors,
        trained=tuple(trained),
        anchor_scores=scores or {},
        leads_to=leads_to,
    )
    lines = said if said is not None else []
    result = run_gate(case, GateWork(store=store, lease=under, play=play, root_seed=ROOT, progress=lines.append))
    gates.close_gate(store, under, result)
    return result


def stored(store: Store) -> list[Any]:
    return [
        tuple(row)
        for row in store.rows("SELECT environment, role, draw, seed, difference FROM pair ORDER BY gate, environment, role, draw")
    ]
