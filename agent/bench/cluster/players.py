"""How play grows with players whose environment and engine wait, what an idle cluster costs the head, and when the work of a lost player
is played elsewhere.

Players are processes of this machine. As they wait nearly all the time, they stand for players on other machines, as long as the cores here
are not all in use. Left out: placement and Ray.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.bench.cluster.bench_head import WIDTH, BenchHead, bench_head
from perdure.agent.bench.cluster.waiting_game import STEP_MS
from perdure.agent.bench.cluster.waiting_player import GENERATE_S
from perdure.memory.json_value import Document

SETTLE_S = 3.0
TASKS_EACH = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayRate:
    """Play by a number of players in one window."""

    players: int
    turns_per_s: float
    journal_cpu: float
    """Cores that the journal took."""
    player_cpu: float
    """Cores that one player took."""

    def as_json(self) -> Document:
        return {
            "players": self.players,
            "turns_per_s": self.turns_per_s,
            "journal_cores": self.journal_cpu,
            "player_cores": self.player_cpu,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayGrowth:
    """Windows with few and many players in turn."""

    rates: tuple[PlayRate, ...]
    waits_only: float
    """Turns a second of one player if nothing took time but the waits."""

    def of(self, players: int) -> float:
        """Turns a second with a number of players, the median over the windows."""
        return statistics.median(rate.turns_per_s for rate in self.rates if rate.players == players)

    def times_one(self, players: int) -> float:
        """How many times as much as one player, the median over the windows, each against the one before or after it."""
        ones = [rate.turns_per_s for rate in self.rates if rate.players == 1]
        many = [rate.turns_per_s for rate in self.rates if rate.players == players]
        return statistics.median(all_ / one for one, all_ in zip(ones, many, strict=True))

    def as_json(self) -> Document:
        counts = sorted({rate.players for rate in self.rates})
        return {
            "width": WIDTH,
            "step_ms": STEP_MS,
            "generate_ms": 1000 * GENERATE_S,
            "waits_only_turns_per_s": self.waits_only,
            "times_one": {str(count): self.times_one(count) for count in counts},
            "windows": [rate.as_json() for rate in self.rates],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleCost:
    """What a cluster with nothing to play costs the head."""

    players: int
    journal_cpu: float
    """Cores."""

    def as_json(self) -> Document:
        return {"players": self.players, "journal_cores": self.journal_cpu}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerLoss:
    """A player that is killed while it plays, with all that it started."""

    tasks: int
    """That it held."""
    first_s: float
    """Until another player had the first of them."""
    all_s: float
    """Until others had all of them."""

    def as_json(self) -> Document:
        return {"tasks": self.tasks, "first_s": self.first_s, "all_s": self.all_s}


def bench_growth(folder: Path, counts: Sequence[int], repeats: int, window_s: float, say: Callable[[str], None]) -> PlayGrowth:
    """Play with each number of players, again and again."""
    rates = []
    with bench_head(folder) as head:
        head.queue(TASKS_EACH * sum(counts) * repeats)
        for n in range(repeats):
            for count in counts if n % 2 == 0 else reversed(counts):
                say(f"play: {count} player{'s' if count > 1 else ''}, window {n + 1} of {repeats}")
                rates.append(_window(head, count, window_s))
    round_s = GENERATE_S + WIDTH * STEP_MS / 1000  # the steps of a round are made one after the other
    return PlayGrowth(rates=tuple(rates), waits_only=WIDTH / round_s)


def bench_idle(folder: Path, players: int, window_s: float, say: Callable[[str], None]) -> IdleCost:
    """Let players ask for tasks that are not there."""
    with bench_head(folder) as head:
        say(f"idle: {players} players")
        head.start_players(players)
        time.sleep(SETTLE_S)
        before_s = head.cpu_s("journal")
        time.sleep(window_s)
        return IdleCost(players=players, journal_cpu=(head.cpu_s("journal") - before_s) / window_s)


def bench_loss(folder: Path, players: int, say: Callable[[str], None], silence_s: int = 10) -> PlayerLoss:
    """Kill one of the players while all play; the journal misses it after `silence_s`."""
    with bench_head(folder, silence_s) as head:
        head.queue(TASKS_EACH * players)
        say(f"loss: one of {players} players is killed")
        victim = head.start_players(players)[0]
        owner = f"player:{victim}-%"
        held = "SELECT id, attempt FROM task WHERE owner LIKE ? AND state = 'leased'"

        def frozen_at_work() -> bool:
            """Between two leases a player has no task for a moment: then it goes on."""
            head.freeze(victim, True)
            if head.rows(held, (owner,)):
                return True
            head.freeze(victim, False)
            return False

        head.wait("tasks of the player", lambda: head.rows(held, (owner,)))
        time.sleep(SETTLE_S)
        head.wait("tasks of the player", frozen_at_work)
        head.kill(victim)
        killed_s = time.monotonic()
        lost = head.rows(held, (owner,))
        taken: dict[object, float] = {}

        def all_taken() -> bool:
            for task, attempt in lost:
                turn = "SELECT 1 FROM episode e JOIN turn t ON t.episode = e.id WHERE e.task = ? AND e.attempt > ? LIMIT 1"
                ended = "SELECT 1 FROM task WHERE id = ? AND state = 'done'"  # nothing of it was left to play
                if task not in taken and (head.rows(turn, (task, attempt)) or head.rows(ended, (task,))):
                    taken[task] = time.monotonic() - killed_s
            return len(taken) == len(lost)

        head.wait("others to take its tasks", all_taken)
        return PlayerLoss(tasks=len(lost), first_s=min(taken.values()), all_s=max(taken.values()))


def _window(head: BenchHead, count: int, window_s: float) -> PlayRate:
    """Start players, let them play for a while, and end them."""
    names = head.start_players(count)
    at_work = "SELECT count(DISTINCT owner) FROM task WHERE state = 'leased'"
    head.wait("all players to play", lambda: head.rows(at_work) == [(count,)])
    time.sleep(SETTLE_S)
    before = head.turns(), head.cpu_s("journal"), sum(map(head.cpu_s, names)), time.monotonic()
    time.sleep(window_s)
    seconds = time.monotonic() - before[3]
    turns = head.turns() - before[0]
    rate = PlayRate(
        players=count,
        turns_per_s=turns / seconds,
        journal_cpu=(head.cpu_s("journal") - before[1]) / seconds,
        player_cpu=(sum(map(head.cpu_s, names)) - before[2]) / seconds / count,
    )
    head.stop(names)
    return rate
