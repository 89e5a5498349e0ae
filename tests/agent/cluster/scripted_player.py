"""A player with a scripted model, for speed: `python -m tests.agent.cluster.scripted_player ORDER`. All else in it is the real one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tests.fakes import ByteChat
from tests.faults.acknowledged import AcknowledgingJournal
from tests.faults.number_policy import PAUSE_S, NumberPolicy

from perdure.agent.cluster.playing.fetched_model import Ask, RemoteModel
from perdure.agent.cluster.playing.player_order import PlayerOrder
from perdure.agent.cluster.playing.remote_player import PlayerParts, main
from perdure.agent.config import Config
from perdure.envs.policy import Policy
from perdure.memory.json_value import Document
from perdure.memory.records import VersionRef

BASE_HASH = "hash-of-tiny"


class ScriptedModel:
    """A model of no weights that every version plays with; it asks the head which files a version has, and fetches none."""

    chat = ByteChat()
    context_limit = 100_000

    def __init__(self, ask: Ask, pause_s: float = PAUSE_S) -> None:
        self.hashes: dict[str, str] = {}
        self._pause_s = pause_s
        self._ask = ask

    def load(self, version: str) -> Policy:
        self.hashes[version] = str(self._ask("serving", {"version": version}).head["hash"])
        return NumberPolicy(VersionRef(version), self._pause_s)

    def opponent(self, version: str) -> Policy:
        return self.load(version)


def scripted_hash(config: Config, say: Callable[[str], None]) -> str:
    return BASE_HASH


def open_scripted(order: PlayerOrder, welcome: Document, ask: Ask, say: Callable[[str], None]) -> RemoteModel:
    return ScriptedModel(ask)


def scripted_parts(acknowledged: Path | None = None) -> PlayerParts:
    """The parts of a scripted player; what the journal acknowledges is written into a file."""
    if acknowledged is None:
        return PlayerParts(hash_of_base=scripted_hash, open_model=open_scripted)
    return PlayerParts(
        hash_of_base=scripted_hash, open_model=open_scripted, journal=lambda journal: AcknowledgingJournal(journal, acknowledged)
    )


if __name__ == "__main__":
    raise SystemExit(main(scripted_parts(Path(sys.argv[1]).parent / "acknowledged")))
