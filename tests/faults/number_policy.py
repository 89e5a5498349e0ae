"""A policy for speed: no model, and still an answer that can be told from every other."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence

from tests.fakes import END

from perdure.envs.policy import Request, Sample
from perdure.memory.layout.blobs import pack_ids
from perdure.memory.records import VersionRef

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
