"""Which of several servers gets which prompt: each server keeps what it has read, and should not have to read what another one has.

A prompt goes to the server that has read the longest earlier prompt that it begins with. So the members of a group, whose first prompts are
the same, stay together, and so do the turns of an episode. A new prompt goes to the server with least to do, and none to a server that has
too much already. Left out: what the servers really keep (vLLM forgets blocks by itself), and answers of different lengths.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from hashlib import blake2b

from perdure.envs.policy import Ids

TOGETHER = 16
"""A group of up to this many prompts is never taken apart."""
SLACK = 1.25
"""Of a larger batch a server takes at most this many times its even share."""
REMEMBERED = 4096
"""Prompts; the ones that were not sent for longest are forgotten first."""
DIGEST_BYTES = 16

Digest = bytes


class PrefixSpread:
    """What was sent where. Only for one thread at a time."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._sent: OrderedDict[Digest, tuple[int, int]] = OrderedDict()
        """Server and length of each prompt, by its digest, the one sent last at the end."""
        self._lengths: Counter[int] = Counter()

    def assign(self, prompts: Sequence[Ids], servers: Collection[int]) -> list[int]:
        """The server of each prompt, out of these."""
        limit = max(TOGETHER, math.ceil(SLACK * len(prompts) / len(servers)))
        load = dict.fromkeys(sorted(servers), 0)
        lengths = sorted(self._lengths)
        digests = [_digests(prompt, lengths) for prompt in prompts]
        assigned: dict[int, int] = {}

        def take(i: int, server: int) -> None:
            assigned[i] = server
            load[server] += 1
            self._remember(digests[i][-1], server, len(prompts[i]))

        for i, ends in enumerate(digests):
            known = next((self._sent[end][0] for end in reversed(ends) if end in self._sent), None)
            if known is not None and load.get(known, limit) < limit:
                take(i, known)
        for i, ends in enumerate(digests):
            if i not in assigned:
                server, _ = self._sent.get(ends[-1], (None, 0))  # where another member of its group has gone just now
                take(i, server if server is not None and load.get(server, limit) < limit else min(load, key=load.__getitem__))
        return [assigned[i] for i in range(len(prompts))]

    def _remember(self, digest: Digest, server: int, length: int) -> None:
        if digest not in self._sent:
            self._lengths[length] += 1
        self._sent[digest] = server, length
        self._sent.move_to_end(digest)
        if len(self._sent) > self._remembered:
            _, (_, forgotten) = self._sent.popitem(last=False)
            self._lengths[forgotten] -= 1
            if not self._lengths[forgotten]:
                del self._lengths[forgotten]


def _digests(prompt: Ids, lengths: Sequence[int]) -> list[Digest]:
    """Digests of what the prompt begins with, at each of these ascending lengths that it reaches, and of all of it at the end."""
    tokens = memoryview(array("q", prompt)).cast("B")
    hashed, done = blake2b(digest_size=DIGEST_BYTES), 0
    digests: list[Digest] = []
    for length in (*lengths, len(prompt)):
        if length > len(prompt) or (length == len(prompt) and digests and done == len(prompt)):
            continue
        hashed.update(tokens[done * 8 : length * 8])
        done = length
        digests.append(hashed.copy().digest())
    return digests
