"""Text as the store can hold it: foreign code can make strings that no file, terminal or tokenizer takes."""

from __future__ import annotations

import re

_HALVES = re.compile("[\ud800-\udfff]")


def storable(text: str) -> str:
    """The text with U+FFFD in the place of each half of a surrogate pair: those have no UTF-8."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)
