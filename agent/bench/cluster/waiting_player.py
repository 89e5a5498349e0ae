"""A player whose engine waits and computes nothing: `python -m perdure.agent.bench.cluster.waiting_player ORDER`. All else in it is real.

Its answers are token ids of the default model's vocabulary, with log-probs; its prompts are words as token ids, one each, so that no
tokenizer is loaded. So a player takes as little of this machine as one on another machine would.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from perdure.agent.cluster.playing.fetched_model import Ask, RemoteModel
from perdure.agent.cluster.playing.player_order import PlayerOrder
from perdure.agent.cluster.playing.remote_player import PlayerParts, main
from perdure.agent.config import Config
from perdure.envs.policy import Ids, Message, Policy, Request, Sample
from perdure.envs.rollout import Opponents
from perdure.memory.json_value import Document
from perdure.memory.layout.blobs import pack_ids
from perdure.memory.records import VersionRef

MODEL, MODEL_HASH = "waiting", "hash-of-waiting"
GENERATE_S = 0.05
"""What a round of generation takes, whatever its width."""
ANSWER = 32
"""Tokens of an answer, its end included."""
VOCABULARY = 49_152
END = 2
ROLES = {"system": 4, "user": 5, "assistant": 6, "tool": 7}
FIRST_WORD = 100


class WordChat:
    """Every word is a token."""

    separate: bool = False

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> Ids:
        said = [id_ for message in messages for id_ in (ROLES[message.role], *_ids(message.text), END)]
        return (*said, ROLES["assistant"])

    def follow(self, prompt_ids: Ids, action_ids: Ids, observation: str) -> Ids:
        return prompt_ids + action_ids + self.prompt([Message(role="user", text=observation)])

    def text(self, action_ids: Ids) -> str:
        return " ".join(map(str, action_ids))

    def answer(self, text: str) -> Ids:
        return (*_ids(text), END)

    def exchange(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> tuple[Ids, Ids]:
        return self.prompt(messages[:-1], tools), self.answer(messages[-1].text)


class WaitingPolicy:
    """Answers after `GENERATE_S`, by the prompt alone."""

    def __init__(self, sampler: VersionRef) -> None:
        self._sampler = sampler

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        time.sleep(GENERATE_S)
        return [self._sample(request) for request in requests]

    def _sample(self, request: Request) -> Sample:
        drawn = zlib.crc32(pack_ids(request.prompt_ids[-64:]))
        ids = (*((drawn + 7919 * n) % (VOCABULARY - FIRST_WORD) + FIRST_WORD for n in range(ANSWER - 1)), END)
        logprobs = tuple(-((drawn + n) % 97) / 32 for n in range(ANSWER))
        return Sample(action_ids=ids, logprobs=logprobs, finish="stop", sampler=self._sampler)


class WaitingModel:
    """A model of no weights: it asks the head which files a version has, and fetches none."""

    chat = WordChat()
    context_limit = 8192

    def __init__(self, ask: Ask) -> None:
        self.hashes: dict[str, str] = {}
        self._ask = ask

    @property
    def engine(self) -> Any:
        return self

    def policy(self, sampler: VersionRef) -> Policy:
        return WaitingPolicy(sampler)

    def load(self, version: str) -> Policy:
        return self.policy(self.pin(version))

    def opponent(self, version: str) -> Policy:
        return self.load(version)

    def pin(self, version: str) -> VersionRef:
        self.hashes[version] = str(self._ask("serving", {"version": version}).head["hash"])
        return VersionRef(version)

    def unpin(self) -> None:
        pass

    def opponents(self, serving: str) -> Opponents:
        return lambda name: (VersionRef(serving), self.load(serving))


def waiting_hash(config: Config, say: Callable[[str], None]) -> str:
    return MODEL_HASH


def open_waiting(order: PlayerOrder, welcome: Document, ask: Ask, say: Callable[[str], None]) -> RemoteModel:
    return WaitingModel(ask)


def _ids(text: str) -> list[int]:
    return [zlib.crc32(word.encode()) % (VOCABULARY - FIRST_WORD) + FIRST_WORD for word in text.split()]


if __name__ == "__main__":
    sys.exit(main(PlayerParts(hash_of_base=waiting_hash, open_model=open_waiting)))
