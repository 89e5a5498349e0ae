"""What a player is told, as it reads it: where the journal is, its token, and the settings that play follows.

Left out: what writes it (`agent/cluster/player_orders.py`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from pydantic import ValidationError

from perdure.agent.config import Config
from perdure.memory.errors import InputError

REACH_S = 300.0
"""How long a player tries to reach a journal before it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerOrder:
    """What a player is told."""

    name: str
    """Part of the name under which it plays, for people."""
    journal: str
    """As in 'http://127.0.0.1:8378'."""
    token: str = field(repr=False)
    settings: Config
    reach_s: float = REACH_S


def read_order(order: bytes) -> PlayerOrder:
    """Raises `InputError`."""
    try:
        said = json.loads(order)
        settings = Config.model_validate_json(json.dumps(said["settings"]))
        reach_s = float(said.get("reach_s", REACH_S))
        return PlayerOrder(name=said["name"], journal=said["journal"], token=said["token"], settings=settings, reach_s=reach_s)
    except (ValidationError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"a player's order cannot be read: {' '.join(str(error).split())[:300]}") from error
