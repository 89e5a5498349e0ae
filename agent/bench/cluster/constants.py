"""The costs of the model (`cycle_model.py`), from what was measured in one run; and the kinds of players that it forecasts.

The speeds of engines and of learning are those of docs/measurements.md, since measuring them takes a model and an hour.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from perdure.agent.bench.cluster.bench_head import MEMBERS, VERSION_BYTES, VERSION_FILE, WIDTH, bench_head
from perdure.agent.bench.cluster.cycle_model import Costs, CycleLoad, PlayerKind, forecast_play, messages
from perdure.agent.bench.cluster.players import PlayGrowth
from perdure.agent.bench.cluster.players_writing import PlayersWriting
from perdure.agent.bench.cluster.waiting_game import STEP_MS, TURNS
from perdure.agent.bench.cluster.waiting_player import ANSWER, GENERATE_S
from perdure.agent.cluster.cluster_token import cluster_token
from perdure.agent.cluster.journal.journal_client import JournalClient
from perdure.agent.config_file import load_config
from perdure.memory.json_value import Document

PINGS_ASKED = 400

CPU_NODE = PlayerKind(name="2 cores, default model", width=64, turns=1, members=8, tokens=12, round_s=1.15)
"""128 episodes of a default job are sampled in 2.3 s (docs/measurements.md, speed)."""
GPU_NODE = PlayerKind(name="one GPU with vLLM, default model", width=512, turns=1, members=8, tokens=40, round_s=1.25)
"""512 answers of 40 tokens at 16,400 tokens a second with an adapter (docs/measurements.md, vLLM)."""
DEFAULT_CYCLE = CycleLoad(
    episodes=336,
    queued_tasks=32,
    updates=12,
    samples_s=28.0,
    updates_s=50.0,
    gate_batches=14,
    batch_answers=128,
    version_bytes=19_600_000,
)
"""A default job has 12 updates of 6.5 s, of which 2.3 s sample. A promotion takes about 214 pairs of four answers, in blocks of about 32
pairs, and each side of a block is one batch. An adapter of rank 16 in float32."""
WIDE_CYCLE = replace(DEFAULT_CYCLE, episodes=33_600, queued_tasks=32_768)
"""A hundred times the episodes between two jobs, and a stream that never runs dry: `stream.tasks_per_round = 4096`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCheck:
    """What the model says of a number of players, and what was measured."""

    players: int
    measured: float
    """Turns a second."""
    modelled: float

    def as_json(self) -> Document:
        return {"players": self.players, "measured": self.measured, "modelled": self.modelled, "ratio": self.measured / self.modelled}


def measured_kind() -> PlayerKind:
    """The players of `players.py`: they wait."""
    round_s = GENERATE_S + WIDTH * STEP_MS / 1000  # the steps of a round are made one after the other
    return PlayerKind(name="players that wait", width=WIDTH, turns=TURNS, members=MEMBERS, tokens=ANSWER, round_s=round_s)


def costs_of(growth: PlayGrowth, wide: PlayersWriting, narrow: PlayersWriting, ping_s: float, part_bytes_s: float) -> Costs:
    """The costs that two widths of messages, and play by one player, amount to."""
    of_wide, of_narrow = _cpu_of_turn(wide), _cpu_of_turn(narrow)
    message_s = max(0.0, (of_narrow - of_wide) / (1 / narrow.width - 1 / wide.width))
    turn_s = max(of_wide - message_s / wide.width, 1e-6)
    played = statistics.median(rate.journal_cpu / rate.turns_per_s for rate in growth.rates)
    kind = measured_kind()
    episode_s = max(0.0, (played - turn_s - messages(kind) * message_s / WIDTH) * TURNS)
    known = Costs(turn_s=turn_s, message_s=message_s, episode_s=episode_s, ping_s=ping_s, answer_s=0.0, part_bytes_s=part_bytes_s)
    one = forecast_play(known, kind, 1).turns_s
    answer_s = max(0.0, kind.width / growth.of(1) - kind.width / one)
    return Costs(turn_s=turn_s, message_s=message_s, episode_s=episode_s, ping_s=ping_s, answer_s=answer_s, part_bytes_s=part_bytes_s)


def check_model(costs: Costs, growth: PlayGrowth) -> list[ModelCheck]:
    """The model, whose one free number is fitted to one player, beside what more of them did."""
    counts = sorted({rate.players for rate in growth.rates})
    kind = measured_kind()
    return [ModelCheck(players=n, measured=growth.of(n), modelled=forecast_play(costs, kind, n).turns_s) for n in counts]


def measure_small_messages(folder: Path, say: Callable[[str], None]) -> tuple[float, float]:
    """Processor seconds of the journal for a ping, and bytes of a version that it sends in a second."""
    say("pings, and a version on its way")
    with bench_head(folder) as head:
        settings = load_config(head.config).config.cluster
        client = JournalClient(url=f"http://127.0.0.1:{head.port}", token=cluster_token(head.home, settings), patience_s=10.0)
        name = head.hello(client)
        before_s = head.cpu_s("journal")
        for _ in range(PINGS_ASKED):
            client.ask("ping", {"player": name, "doing": "playing"})
        ping_s = (head.cpu_s("journal") - before_s) / PINGS_ASKED
        hash_, got = head.publish_version(), 0
        began_s = time.perf_counter()
        while got < VERSION_BYTES:
            got += len(client.ask("version-part", {"player": name, "hash": hash_, "file": VERSION_FILE, "offset": got}).rest)
        seconds = time.perf_counter() - began_s
        client.close()
    return ping_s, VERSION_BYTES / seconds


def _cpu_of_turn(writing: PlayersWriting) -> float:
    return statistics.median(cpu / writing.turns for cpu in writing.journal_cpu_s)
