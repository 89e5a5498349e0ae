"""A model of the whole cycle: play, stream, journal, learning, adapters on their way, gate; and what limits it at which size.

Play is a closed queue: each player waits for its engine and its environments, and then for the journal, which serves one message after the
other (exact mean value analysis; Reiser & Lavenberg 1980). The rest are quotients. Costs are measured (`constants.py`); docs/scale.md says
what the forecast is worth. Left out: variation (all rounds of a player take the same time), failures, and memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from perdure.memory.json_value import Document

STREAM_TICK_S = 0.5
"""How often the daemon refills its queue (`agent/supervision/ticker.py:EVERY_S`)."""
PINGS = 4
"""In the silence after which a player is lost (`agent/cluster/playing/remote_player.py:PINGS`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the head pays, in seconds of its one core for the journal unless said otherwise."""

    turn_s: float
    """A turn, whatever else is in its message."""
    message_s: float
    """A message, beyond its turns."""
    episode_s: float
    """An episode's beginning and end, beyond the messages that say them."""
    ping_s: float
    answer_s: float
    """What else a player waits for in a round, for the disk most of all: no processor."""
    part_bytes_s: float
    """Bytes of a version that the head sends in a second."""

    def as_json(self) -> Document:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerKind:
    """A player: one engine, and its environments."""

    name: str
    width: int
    turns: int
    """Of an episode."""
    members: int
    """Episodes of a task."""
    tokens: int
    """Sampled in a turn."""
    round_s: float
    """A round of generation and of steps of all its episodes, without the journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleLoad:
    """What one cycle asks for: from one learning job to the next."""

    episodes: int
    """Live episodes between two jobs (`learn.every_episodes`)."""
    queued_tasks: int
    """That the stream keeps queued: `stream.tasks_per_round` of each environment."""
    updates: int
    samples_s: float
    """Of a job's updates, sampling on its own engine; one rank."""
    updates_s: float
    """Of a job's updates, the gradient; one rank."""
    gate_batches: int
    """Batches of the gate, one after the other, since each decides whether there is another."""
    batch_answers: int
    """Answers of one such batch, which players share."""
    version_bytes: int
    silence_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayForecast:
    """Live play by a number of players."""

    players: int
    turns_s: float
    """Turns a second."""
    journal: float
    """Share of its core that the journal uses."""
    limit: str
    """What limits it: players, stream, or journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleForecast:
    """One cycle with a number of players and ranks. Play goes on meanwhile; the longest part decides how often a version can come."""

    play: PlayForecast
    ranks: int
    play_s: float
    """Until the episodes of a cycle are played."""
    learn_s: float
    transfer_s: float
    gate_s: float
    bottleneck: str

    @property
    def cycle_s(self) -> float:
        """From one version to the next."""
        return max(self.play_s, self.learn_s + self.transfer_s + self.gate_s)

    def as_json(self) -> Document:
        return {
            "players": self.play.players,
            "ranks": self.ranks,
            "turns_per_s": self.play.turns_s,
            "journal_share": self.play.journal,
            "play_limit": self.play.limit,
            "play_s": self.play_s,
            "learn_s": self.learn_s,
            "transfer_s": self.transfer_s,
            "gate_s": self.gate_s,
            "cycle_s": self.cycle_s,
            "bottleneck": self.bottleneck,
        }


def messages(kind: PlayerKind) -> float:
    """Messages of one player in a round: its turns, and its share of those that begin and end episodes and tasks.

    The episodes that begin in a round are one message, those that end another; tasks are leased for half of the places at a time, and each
    is ended by a message of its own.
    """
    tasks = kind.width / kind.members / kind.turns
    return 1 + 2 * min(1.0, tasks) + min(1.0, 2 / kind.turns) + tasks


def service_s(costs: Costs, kind: PlayerKind) -> float:
    """Seconds of the journal for a round of one player."""
    return messages(kind) * costs.message_s + kind.width * (costs.turn_s + costs.episode_s / kind.turns)


def rounds_s(think_s: float, service_s: float, players: int) -> float:
    """Rounds a second of `players` that wait `think_s` each, and then for one server that takes `service_s` for each round."""
    queue = rate = 0.0
    for n in range(1, players + 1):
        response_s = service_s * (1 + queue)
        rate = n / (think_s + response_s)
        queue = rate * response_s
    return rate


def forecast_play(
    costs: Costs, kind: PlayerKind, players: int, *, queued_tasks: int | None = None, silence_s: float = 10.0
) -> PlayForecast:
    """Turns a second of `players`; `queued_tasks` is what the stream keeps queued, None for a queue that never runs dry."""
    pings = players * PINGS / silence_s * costs.ping_s
    served_s = service_s(costs, kind) / max(1.0 - pings, 0.05)  # pings come first: they are answered beside the writing thread
    free = players / (kind.round_s + costs.answer_s + served_s)
    rate = rounds_s(kind.round_s + costs.answer_s, served_s, players)
    turns_s = kind.width * rate
    drawn = math.inf if queued_tasks is None else queued_tasks * kind.members * kind.turns / STREAM_TICK_S
    limit = "stream" if drawn < turns_s else "journal" if rate < 0.8 * free else "players"
    turns_s = min(turns_s, drawn)
    return PlayForecast(players=players, turns_s=turns_s, journal=turns_s / kind.width * service_s(costs, kind) + pings, limit=limit)


def forecast_cycle(
    costs: Costs, kind: PlayerKind, load: CycleLoad, players: int, ranks: int = 1, *, network_bytes_s: float = 125e6
) -> CycleForecast:
    """A cycle with a number of players and a job of a number of ranks, each as fast as the learner of `load`. Rank 0 samples alone.

    `network_bytes_s` is what the head can send.
    """
    play = forecast_play(costs, kind, players, queued_tasks=load.queued_tasks, silence_s=load.silence_s)
    play_s = load.episodes * kind.turns / play.turns_s
    exchanged_s = load.updates * 2 * load.version_bytes / network_bytes_s if ranks > 1 else 0.0  # a ring passes each gradient about twice
    gradients_s = load.updates_s / ranks + exchanged_s
    learn_s = load.samples_s + gradients_s
    transfer_s = players * load.version_bytes / min(costs.part_bytes_s, network_bytes_s)
    at_once = players * kind.width
    gate_s = load.gate_batches * math.ceil(load.batch_answers / at_once) * kind.turns * (kind.round_s + costs.answer_s)
    parts = {"playing": play_s, "learning": learn_s, "adapters on their way": transfer_s, "the gate": gate_s}
    after_s = learn_s + transfer_s + gate_s
    bottleneck = (
        f"playing ({play.limit})" if play_s > after_s else max((name for name in parts if name != "playing"), key=parts.__getitem__)
    )
    return CycleForecast(
        play=play, ranks=ranks, play_s=play_s, learn_s=learn_s, transfer_s=transfer_s, gate_s=gate_s, bottleneck=bottleneck
    )


def saturating_players(costs: Costs, kind: PlayerKind, silence_s: float = 10.0) -> int:
    """How many players fill the journal: more of them play no more turns."""
    each = service_s(costs, kind) / (kind.round_s + costs.answer_s + service_s(costs, kind)) + PINGS / silence_s * costs.ping_s
    return math.ceil(1 / each)
