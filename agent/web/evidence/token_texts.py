"""What each token says, by the tokenizer of the home's model, for the pages that show tokens.

The tokenizer is read when tokens are first looked at, and no library of models is loaded for it. If it is not on this machine, or if an
answer was sampled with another one, there are no texts, and a page shows ids alone. Left out: how texts become tokens (`learners/chat/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from html import escape
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from perdure.agent.home import cache_dir
from perdure.agent.show.terminal import visible
from perdure.learners.weights.base_models import model_folder
from perdure.memory.errors import PerdureError, UnknownError
from perdure.memory.store import Store
from perdure.memory.versions import INITIAL, base_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_BYTES = 48 * 2**20
"""Of the file of a tokenizer: one of 250,000 tokens has 32 MiB."""
MOST_DECODED = 20_000
"""Tokens; of a longer answer there are ids alone."""
MOST_SHOWN = 16
"""Characters of one token."""
MOST_CHARACTERS = 40_000
"""Of the texts of all tokens together, as a page has them."""

_reading = Lock()


class TokenTexts:
    """The texts of tokens of one home."""

    def __init__(self, store: Store) -> None:
        self._home = store.home
        self._model: str | None = None
        with suppress(UnknownError):  # nothing has run yet
            self._model = base_of(store, INITIAL)[0]

    def of_answer(self, ids: Sequence[int], said: str) -> list[str] | None:
        """What each token of a whole answer says; `said` is the text that the answer was read as. None if that is no part of it."""
        tokenizer = self._tokenizer()
        if tokenizer is None or len(ids) > MOST_DECODED:
            return None
        texts = _decoded(tokenizer, ids)
        if texts is None or (said not in "".join(texts) and said not in tokenizer.decode(ids, skip_special_tokens=True)):
            return None
        return [_short(text) for text in texts]

    def of_prompt(self, ids: Sequence[int]) -> list[str] | None:
        """What each of some tokens of a prompt says, whose answer `of_answer` knows."""
        tokenizer = self._tokenizer()
        texts = None if tokenizer is None or len(ids) > MOST_DECODED else _decoded(tokenizer, ids)
        return None if texts is None else [_short(text) for text in texts]

    def _tokenizer(self) -> Tokenizer | None:
        if self._model is None:
            return None
        try:
            folder = model_folder(self._model, cache_dir(), self._home)
            if folder is None:
                return None
            file = folder / "tokenizer.json"
            facts = file.stat()
        except (PerdureError, OSError, ValueError):
            return None
        with _reading:
            return _read(file, facts.st_mtime_ns, facts.st_size)


def that_fit(texts: Sequence[str] | None) -> Sequence[str] | None:
    """These texts, unless they take more of a page than there is for them."""
    return None if texts is None or sum(len(escape(text)) for text in texts) > MOST_CHARACTERS else texts


@lru_cache(maxsize=1)
def _read(file: Path, changed_ns: int, size_bytes: int) -> Tokenizer | None:
    """None if it cannot be read: it is looked at again once the file is another."""
    if size_bytes > MOST_BYTES:
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception:  # noqa: BLE001 - tokenizers raises a plain Exception for files that it cannot read
        return None


def _decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str] | None:
    """The text that each token adds; of a character of several tokens, the last one adds it."""
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    try:
        return [stream.step(tokenizer, number) or "" for number in ids]
    except Exception:  # noqa: BLE001 - tokenizers raises a plain Exception for tokens that make no text together
        return None


def _short(text: str) -> str:
    """On one line, with everything visible that could hide or move other text."""
    shown = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    return shown if len(shown) <= MOST_SHOWN else f"{shown[: MOST_SHOWN - 1]}…"
