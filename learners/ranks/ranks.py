"""The ranks of a learning job, as those who compute a gradient see them, and how the work of a batch is shared.

Rank 0 is the job's process and leads: before it does something that the others must do too, it tells them. With one rank nothing here does
anything, and torch.distributed is not loaded. Left out: how ranks reach each other (`process_group.py`), what a rank that is told something
does (`follower.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

from torch import Tensor

from perdure.envs.policy import Ids
from perdure.learners.model.tree import common_prefix

What = Literal["open", "retention", "resume", "batch", "restart", "follow", "gather", "end"]
"""What the ranks are told to do; `follower.py` says what each means."""


class Ranks(Protocol):
    """The ranks of one job, seen by one of them. All but `tell` are called by every rank in the same order.

    Raises `Unavailable` if another rank is gone, or is silent for too long.
    """

    @property
    def number(self) -> int: ...

    @property
    def count(self) -> int: ...

    def tell(self, what: What, content: bytes = b"") -> None:
        """Tell the other ranks to do something; does nothing on any rank but the first."""

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks."""

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by that of rank 0."""

    def gather(self, content: bytes) -> list[bytes]:
        """What each rank gave, in their order."""
        ...

    def reporting(self) -> AbstractContextManager[None]:
        """Within this, an error of torch that another rank caused becomes `Unavailable`, as in the calls above."""
        ...


class Alone:
    """The only rank: nobody is told anything, and what it has is the sum."""

    number, count = 0, 1

    def tell(self, what: What, content: bytes = b"") -> None:
        pass

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        pass

    def spread(self, tensors: Sequence[Tensor]) -> None:
        pass

    def gather(self, content: bytes) -> list[bytes]:
        return [content]

    def reporting(self) -> AbstractContextManager[None]:
        return nullcontext()


ALONE: Ranks = Alone()


def leads(ranks: Ranks) -> bool:
    """Whether this is the first of several ranks."""
    return ranks.number == 0 and ranks.count > 1


def share_of(items: Sequence[Sequence[Ids]], ranks: Ranks) -> list[int]:
    """The places of the items that this rank computes, each a list of sequences; every item is one rank's.

    Items that begin alike go to one rank, which computes their common prefix once (`model/tree.py:pack`), and the ranks have about as many
    tokens.
    """
    if ranks.count == 1:
        return list(range(len(items)))
    longest = [max(sequences, key=len, default=()) for sequences in items]
    order = sorted(range(len(items)), key=lambda i: longest[i])
    ends: list[int] = []
    previous: Ids = ()
    total = 0
    for i in order:
        total += max(1, len(longest[i]) - common_prefix(previous, longest[i]))
        ends.append(total)
        previous = longest[i]
    begins = [0, *ends][: len(ends)]
    return [
        i
        for i, begin, end in zip(order, begins, ends, strict=True)
        if min(ranks.count - 1, ranks.count * (begin + end) // (2 * total)) == ranks.number
    ]
