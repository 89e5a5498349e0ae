"""An actor with a scripted model, for speed: `python -m tests.faults.actor --home DIR --config FILE`. All else in it is the real one."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fakes import END, ByteChat
from tests.faults.acknowledged import acknowledging
from tests.faults.arming import take_fault

from perdure.agent.config import Config
from perdure.agent.home import cache_dir
from perdure.agent.processes.actor import main, store_journal
from perdure.agent.processes.live_shift import Model
from perdure.envs.policy import Policy, Request, Sample
from perdure.learners.weights.base_models import resolve_model
from perdure.memory.layout.blobs import pack_ids
from perdure.memory.records import VersionRef
from perdure.memory.store import Store
from perdure.memory.versions import add_initial

PAUSE_S = 0.01
"""What a round of generation takes, so that a process is not always in a transaction when it is killed."""


class NumberPolicy:
    """Answers with a number that depends on the whole prompt and on nothing else."""

    def __init__(self, sampler: VersionRef, pause_s: float = PAUSE_S) -> None:
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
    """A model of no weights that every version plays with."""

    chat = ByteChat()
    context_limit = 100_000

    def __init__(self, pause_s: float = PAUSE_S) -> None:
        self._pause_s = pause_s

    def load(self, version: str) -> Policy:
        return NumberPolicy(VersionRef(version), self._pause_s)

    def opponent(self, version: str) -> Policy:
        return self.load(version)


def open_scripted(store: Store, config: Config, say: Callable[[str], None], pause_s: float = PAUSE_S) -> Model:
    """The base model's files are looked at, as they name the first version, and not loaded."""
    files = resolve_model(config.model, cache_dir(), say)
    add_initial(store, files.name, files.hash)
    return ScriptedModel(pause_s)


if __name__ == "__main__":
    take_fault(Path(sys.argv[sys.argv.index("--home") + 1]), "actor")
    raise SystemExit(main(open_scripted, lambda store: acknowledging(store_journal(store), store)))
