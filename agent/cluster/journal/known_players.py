"""The players that the journal knows: when each was heard last, and which were sent away. In memory alone: the store has their leases.

A journal that starts again knows a player by the leases that it holds, and asks all others to say hello again. Time is the head's monotonic
clock; no player's clock counts. While this process itself was stopped nobody could be heard, and that time counts for none.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perdure.memory.errors import RuntimeFailure, Unavailable

PREFIX = "player:"
"""How the owner of a lease is called if it is a player elsewhere."""
STOPPED_S = 3.0
"""A longer pause between two looks means that this process was stopped, or the machine asleep."""


class PlayerGone(Unavailable):
    """The journal does not know this player any more, or cannot be reached: its leases have ended, and it has to begin anew."""


class PlayerFenced(RuntimeFailure):
    """The journal takes nothing from this player: it does not serve what it says."""


@dataclass(slots=True, kw_only=True)
class KnownPlayer:
    """A player that may write."""

    name: str
    heard_s: float
    doing: str = ""
    """What it last said."""


class KnownPlayers:
    """All players by name. May be asked from several threads: each call reads or writes one entry."""

    def __init__(self, silence_s: float, now_s: Callable[[], float] = time.monotonic) -> None:
        self.silence_s = silence_s
        self._now_s = now_s
        self._known: dict[str, KnownPlayer] = {}
        self._fenced: dict[str, str] = {}
        """Why, by name."""
        self._looked_s = now_s()

    def welcome(self, label: str) -> str:
        """Give a new player its name."""
        name = f"{PREFIX}{label}-{secrets.token_hex(4)}"
        self._known[name] = KnownPlayer(name=name, heard_s=self._now_s())
        return name

    def heard(self, name: str, doing: str | None = None) -> bool:
        """A player has said something; False if it is not known. Raises `PlayerFenced`."""
        if name in self._fenced:
            raise PlayerFenced(f"{name} was sent away: {self._fenced[name]}")
        player = self._known.get(name)
        if player is None:
            return False
        player.heard_s = self._now_s()
        if doing is not None:
            player.doing = doing
        return True

    def know_again(self, name: str) -> None:
        """Take in a player that holds leases which this process did not give."""
        self._known[name] = KnownPlayer(name=name, heard_s=self._now_s())

    def fence(self, name: str, why: str) -> None:
        """Take nothing more from a player."""
        self._known.pop(name, None)
        self._fenced[name] = why

    def drop(self, name: str) -> None:
        """Forget a player that has gone."""
        self._known.pop(name, None)

    def silent(self) -> list[str]:
        """Those that were not heard for too long. Call it every second."""
        now_s = self._now_s()
        stopped_s = now_s - self._looked_s
        self._looked_s = now_s
        if stopped_s > STOPPED_S:
            for player in [*self._known.values()]:
                player.heard_s += stopped_s
        return [player.name for player in [*self._known.values()] if now_s - player.heard_s > self.silence_s]

    def all(self) -> Sequence[KnownPlayer]:
        """Those that are known, by name."""
        return sorted(self._known.values(), key=lambda player: player.name)
