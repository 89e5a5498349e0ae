"""Two answers to one seed, cut for a page: what both share in few words, the first turn that differs with its tokens, and some after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from perdure.memory.json_value import Document

BEFORE, AFTER, WITH_TOKENS = 2, 3, 2
"""Turns shown before the first that differs, and from it on; and of these, those with tokens."""
MOST_TOKENS = 400
"""Of one answer; with more, those around the first that differs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWindow:
    """Some tokens of an answer."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    start: int
    in_all: int
    texts: Sequence[str] | None = None
    """What each says, if that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPair:
    """One turn of both; None if an answer has ended before."""

    n: int
    same: bool
    a: Document | None
    b: Document | None
    a_tokens: TokenWindow | None
    """Of the first turn that differs, and the one after it."""
    b_tokens: TokenWindow | None
    token: int | None
    """The first token that differs, in the first turn that does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerParts:
    """What a page shows of two answers."""

    shared: int
    """Turns at the beginning in which both saw and said the same."""
    turns: Sequence[TurnPair]
    left_out: int
    """Turns after those that are shown."""


Texts = Callable[[Document], Sequence[str] | None]
"""What each token of the answer of a turn says."""


def answer_parts(both: Document, texts: Texts = lambda turn: None) -> AnswerParts:
    """From the document of `views/side_by_side.py:answers`."""
    every, first = both["turns"], both["first_difference"]
    shared = len(every) if first is None else first["turn"]
    start, end = max(0, shared - BEFORE), min(len(every), shared + AFTER)
    turns = []
    for turn in every[start:end]:
        token = first["token"] if first is not None and turn["n"] == first["turn"] else None
        with_tokens = shared <= turn["n"] < shared + WITH_TOKENS
        turns.append(
            TurnPair(
                n=turn["n"],
                same=turn["same"],
                a=turn["a"],
                b=turn["b"],
                a_tokens=_around(turn["a"], token, texts) if with_tokens else None,
                b_tokens=_around(turn["b"], token, texts) if with_tokens else None,
                token=token,
            )
        )
    return AnswerParts(shared=shared, turns=turns, left_out=len(every) - end)


def _around(turn: Document | None, token: int | None, texts: Texts) -> TokenWindow | None:
    """The tokens of an answer, or those around the one that differs."""
    if turn is None:
        return None
    number = len(turn["action_ids"])
    start = 0 if token is None or number <= MOST_TOKENS else max(0, min(token - MOST_TOKENS // 2, number - MOST_TOKENS))
    part = slice(start, start + MOST_TOKENS)
    every = texts(turn)
    return TokenWindow(
        ids=turn["action_ids"][part],
        logprobs=turn["logprobs"][part],
        start=start,
        in_all=number,
        texts=None if every is None else every[part],
    )
