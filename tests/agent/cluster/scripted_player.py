"""A player with a scripted model, for speed: `python -m tests.agent.cluster.scripted_player ORDER`. All else in it is the real one."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fakes import END, ByteChat
from tests.faults.acknowledged import AcknowledgingJournal

from perdure.agent.cluster.playing.fetched_model import Ask, RemoteModel
from perdure.agent.cluster.playing.player_order import PlayerOrder
from perdure.agent.cluster.playing.remote_player import PlayerParts, main
from perdure.agent.config import Config
from perdure.envs.policy import Policy, Request, Sample
from perdure.memory.json_value import Document
from perdure.memory.layout.blobs import pack_ids
from perdure.memory.records import VersionRef

BASE_HASH = "hash-of-tiny"
PAUSE_S = 0.01
"""What a round of generation takes, so that a process is not always in a transaction when it is killed."""


class NumberPolicy:
    """Answers with a number that depends on the whole prompt and on nothing else."""

    def __init__(self, sampler: VersionRef, pause_s: float) -> None:
        self._sampler = sampler
        self._pause_s = pause_s

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        time.sleep(self._pause_s)
        return [self._sample(request) for request in requests]

    def _sample(self, request: Request) -> Sample:
        number = zlib.crc32(pack_ids(request.prompt_ids))
        ids = (*str(number).encode()[: request.max_tokens - 1], END)
        logprobs = tuple(-(number % 97) / 97 - k for k in range(len(ids)))
        return Sample(action_ids=ids, logprobs=logprobs, finish="stop", sampler=self._sampler)


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
