"""Reading an answer: its wrapping (white space, a full stop, quotes, brackets) does not matter, its content does."""

from __future__ import annotations

BRACKETS = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "(": ")", "[": "]", "{": "}", "<": ">", "*": "*"}


def bare(text: str) -> str:
    """A text without white space around it, a trailing full stop, and quotes or brackets around the whole: `' "Blue." '` becomes `Blue`."""
    while True:
        shorter = text.strip().removesuffix(".")
        if len(shorter) >= 2 and BRACKETS.get(shorter[0]) == shorter[-1]:
            shorter = shorter[1:-1]
        if shorter == text:
            return text
        text = shorter


def plain(text: str) -> str:
    """A bare text in lower case, with single spaces."""
    return " ".join(bare(text).casefold().split())


def same(action: str, answer: str) -> bool:
    """Whether an action is exactly the answer, up to case and wrapping."""
    return plain(action) == plain(answer)
