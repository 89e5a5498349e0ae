"""Rendered conversations as tokens: control tokens come from the template alone, never from the text of a message.

Before a template renders a message, `guard` breaks each control word in its text by a character that is in no message. What the rendered
text then has of control words was written by the template. Between them lie stretches of plain text, in which the breaker is taken out
again; each is encoded in one go by a copy of the tokenizer that knows no control tokens. So the tokens are those of the whole text
(`apply_chat_template`) if no message holds a control word, and have the same scaffolding if one does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Literal

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from perdure.envs.policy import Ids
from perdure.learners.chat.plain_tokenizers import plain_tokenizers, spotting_tokenizer

_PRIVATE = range(0x100000, 0x10FFFE)
"""Private-use characters: no template writes them."""
UNUSED = chr(_PRIVATE.start)
"""A breaker for texts that hold none."""
Start = Literal["first", "later", "joined"]
_NOTHING: frozenset[str] = frozenset()
_ROUNDS = 8
"""Of breaking control words: where two overlap, the second is found when the first is broken."""


class TextEncoder:
    """Encodes by a model's tokenizer. `controls` are its control words, with their ids; those of `special_ids` are left out of texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        document = json.loads(tokenizer.backend_tokenizer.to_str())
        self._plain = plain_tokenizers(document)
        self._spotter, self._spotted = spotting_tokenizer(document)
        self.controls: dict[str, int] = dict(self._spotted.values())
        self.control_ids = frozenset(self.controls.values())
        self.special_ids = frozenset(token["id"] for token in document["added_tokens"] if token["special"])
        self._single = sorted(word for word in self.controls if len(word) == 1)
        self._heads = {word[:n] for word in self.controls for n in range(1, len(word))}
        self._tails = {word[-n:] for word in self.controls for n in range(1, len(word))}
        self._longest = max(map(len, self.controls), default=1)
        self._all_words = "\0".join(self.controls)
        self._stretch = lru_cache(maxsize=4096)(lambda text, start: self._encode(start, text) if text else ())

    def breaker_for(self, texts: Iterable[str]) -> str:
        """A character that is in none of these texts, nor are those after it that stand for control words of one character."""
        private = set().union(*(_private(text) for text in texts))
        size = 1 + len(self._single)
        start = next(start for start in _PRIVATE if private.isdisjoint(range(start, start + size)))
        return chr(start)

    def guard(self, text: str, breaker: str, allowed: Collection[str] = _NOTHING) -> str:
        """The text with each control word broken, but those that are allowed, and with its ends kept from joining the scaffolding."""
        for n, word in enumerate(self._single, start=1):
            if word not in allowed:
                text = text.replace(word, chr(ord(breaker) + n))
        for _ in range(_ROUNDS):
            broken = [(start, stop, word) for start, stop, word, _ in self._spans(text) if len(word) > 1 and word not in allowed]
            for start, stop, word in reversed(broken):
                at = text.find(word, start, stop)
                place = start + 1 if at < 0 else at + 1
                text = text[:place] + breaker + text[place:]
            if not broken:
                break
        core = text.strip()
        if not core:
            return text
        inside = len(core) < self._longest and core in self._all_words
        if inside or any(core[:n] in self._tails for n in range(1, self._longest)):
            at = text.index(core)
            text = text[:at] + breaker + text[at:]
        if any(core[-n:] in self._heads for n in range(1, self._longest)):
            end = len(text.rstrip())
            text = text[:end] + breaker + text[end:]
        return text

    def encode(self, rendered: str, breaker: str = UNUSED, start: Start = "first") -> Ids:
        """The ids of a rendered text, which begins a conversation, comes `later`, after a control token, or continues a text (`joined`)."""
        ids: list[int] = []
        at = 0
        for begin, stop, _, number in self._spans(rendered):
            ids += self._stretch(self.plain(rendered[at:begin], breaker), "later" if at else start)
            ids.append(number)
            at = stop
        ids += self._stretch(self.plain(rendered[at:], breaker), "later" if at else start)
        return tuple(ids)

    def lead(self, rendered: str) -> str:
        """What stands before the first control word."""
        return rendered[: next((start for start, *_ in self._spans(rendered)), len(rendered))]

    def ends_in_control(self, rendered: str) -> bool:
        """Whether a control word, or the whitespace that its token takes with it, ends this text."""
        return any(stop == len(rendered) for _, stop, *_ in self._spans(rendered))

    def plain(self, text: str, breaker: str) -> str:
        """A guarded text as it was."""
        text = text.replace(breaker, "")
        for n, word in enumerate(self._single, start=1):
            text = text.replace(chr(ord(breaker) + n), word)
        return text

    def _encode(self, start: Start, text: str) -> Ids:
        tokenizer: Tokenizer = {"first": self._plain.first, "later": self._plain.later, "joined": self._plain.joined}[start]
        return tuple(tokenizer.encode(text, add_special_tokens=False).ids)

    def _spans(self, text: str) -> Iterator[tuple[int, int, str, int]]:
        """Where control words stand, with the whitespace that their tokens take with them: start, stop, word and id."""
        found = self._spotter.encode(text, add_special_tokens=False)
        for number, (start, stop) in zip(found.ids, found.offsets, strict=True):
            if number in self._spotted:
                yield start, stop, *self._spotted[number]


def shared_length(first: Sequence[object], second: Sequence[object]) -> int:
    """How many items two texts or lists have in common at their beginning."""
    return next((n for n, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), min(len(first), len(second)))


def clean(text: str) -> str:
    """The text with lone surrogates, which cannot be encoded, replaced by '?'."""
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")


_PRIVATE_CHARACTERS = re.compile(f"[{chr(_PRIVATE.start)}-{chr(_PRIVATE.stop - 1)}]")


def _private(text: str) -> set[int]:
    return set() if text.isascii() else {ord(character) for character in _PRIVATE_CHARACTERS.findall(text)}
