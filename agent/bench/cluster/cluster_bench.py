"""All of `perdure bench cluster`: what was measured on this machine, the model fitted to it, and its forecast.

It needs neither Ray nor a model. Left out: what Ray itself takes, which docs/measurements.md has, and the network between machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.bench.cluster.constants import (
    CPU_NODE,
    DEFAULT_CYCLE,
    GPU_NODE,
    WIDE_CYCLE,
    ModelCheck,
    check_model,
    costs_of,
    measure_small_messages,
)
from perdure.agent.bench.cluster.cycle_model import Costs, CycleForecast, forecast_cycle, saturating_players
from perdure.agent.bench.cluster.players import IdleCost, PlayerLoss, PlayGrowth, bench_growth, bench_idle, bench_loss
from perdure.agent.bench.cluster.players_writing import PlayersWriting, bench_players_writing
from perdure.memory.json_value import Document

PLAYERS = (1, 2, 4, 8)
SIZES = ((1, 1), (10, 1), (10, 8), (100, 8), (1000, 8))
"""Players, and ranks of a job."""
WINDOW_S = 10.0
IDLE_S = 30.0
NARROW = 4
"""Turns of a small message, to tell the cost of a message from that of a turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindForecast:
    """What becomes of players of one kind."""

    name: str
    load: str
    saturating: int
    """Players that fill the journal."""
    sizes: list[CycleForecast]

    def as_json(self) -> Document:
        return {
            "players_are": self.name,
            "load": self.load,
            "journal_full_at": self.saturating,
            "sizes": [one.as_json() for one in self.sizes],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterBench:
    growth: PlayGrowth
    writing: PlayersWriting
    small_messages: PlayersWriting
    idle: IdleCost
    loss: PlayerLoss
    costs: Costs
    checks: list[ModelCheck]
    forecasts: list[KindForecast]

    def as_json(self) -> Document:
        return {
            "growth": self.growth.as_json(),
            "journal": self.writing.as_json(),
            "journal_small_messages": self.small_messages.as_json(),
            "idle": self.idle.as_json(),
            "loss": self.loss.as_json(),
            "costs": self.costs.as_json(),
            "model_against_runs": [check.as_json() for check in self.checks],
            "forecasts": [forecast.as_json() for forecast in self.forecasts],
        }


def bench_cluster(
    folder: Path, *, repeats: int, say: Callable[[str], None], players: Sequence[int] = PLAYERS, window_s: float = WINDOW_S
) -> ClusterBench:
    """Measure in `folder`, which should be on the same disk as a home; the first of `players` is 1."""
    growth = bench_growth(folder / "growth", players, repeats, window_s, say)
    writing = bench_players_writing(folder / "wide", repeats=repeats, say=say)
    narrow = bench_players_writing(folder / "narrow", repeats=repeats, say=say, width=NARROW)
    idle = bench_idle(folder / "idle", players[-1], min(IDLE_S, 3 * window_s), say)
    loss = bench_loss(folder / "loss", 3, say)
    costs = costs_of(growth, writing, narrow, *measure_small_messages(folder / "small", say))
    return ClusterBench(
        growth=growth,
        writing=writing,
        small_messages=narrow,
        idle=idle,
        loss=loss,
        costs=costs,
        checks=check_model(costs, growth),
        forecasts=forecasts(costs),
    )


def forecasts(costs: Costs) -> list[KindForecast]:
    """What becomes of 1 to 1,000 players of two kinds, with the defaults, and with a hundred times the episodes between two jobs."""
    return [
        KindForecast(
            name=kind.name,
            load=name,
            saturating=saturating_players(costs, kind),
            sizes=[forecast_cycle(costs, kind, load, players, ranks) for players, ranks in SIZES],
        )
        for kind in (CPU_NODE, GPU_NODE)
        for name, load in (("defaults", DEFAULT_CYCLE), ("100 times the episodes, a full queue", WIDE_CYCLE))
    ]
