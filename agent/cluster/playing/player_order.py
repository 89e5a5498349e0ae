"""What a player is told: where the journal is, its token, and the settings that play follows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from perdure.agent.cluster.journal.journal_place import address_of_journal, journal_token
from perdure.agent.config import Config
from perdure.agent.web.tokens import read_or_make_token
from perdure.memory.errors import InputError

REACH_S = 300.0
"""How long a player tries to reach a journal before it ends."""
TOLD = ("model", "seed", "device", "engine", "chat", "play", "sandbox", "supervise")
"""The settings that a player follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerOrder:
    """What a player is told. `packed` has the token in it."""

    url: str
    """Of the journal."""
    token: str
    config: Config
    label: str
    """Part of its name, for people."""
    reach_s: float = REACH_S

    def packed(self) -> bytes:
        config = self.config.model_dump(mode="json", exclude_defaults=True, include=set(TOLD))
        said = {"url": self.url, "token": self.token, "config": config, "label": self.label, "reach_s": self.reach_s}
        return json.dumps(said).encode()


def read_order(order: bytes) -> PlayerOrder:
    """Raises `InputError`."""
    try:
        said = json.loads(order)
        config = Config.model_validate(said["config"])
        return PlayerOrder(url=said["url"], token=said["token"], config=config, label=said["label"], reach_s=float(said["reach_s"]))
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"a player's order cannot be read: {' '.join(str(error).split())[:300]}") from error


def order_for(home: Path, config: Config, label: str) -> bytes:
    """The order for a player of this home; a model that is a folder is named by its whole path. Raises as `read_or_make_token` does."""
    folder = Path(config.model).expanduser()
    if folder.is_dir():
        config = config.model_copy(update={"model": str(folder.resolve())})
    token = read_or_make_token(journal_token(home, config.cluster), links=bool(config.cluster.token_file))
    return PlayerOrder(url=address_of_journal(config.cluster), token=token, config=config, label=label).packed()
