"""Count the tokens of a conversation with the tokenizer's file alone: fast, because neither torch nor weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from perdure.envs.check.checker import AROUND, Length
from perdure.learners.weights.base_models import ModelFiles

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHARACTERS_A_TOKEN = 4
COMMON_LIMIT = 8192


def length_of(files: ModelFiles | None) -> Length:
    """How this model counts tokens; an estimate if the model is not on this machine (None) or has no tokenizer.json."""
    if files is None or not (files.path / "tokenizer.json").is_file():
        return Length(tokens=lambda texts: sum(len(text) // CHARACTERS_A_TOKEN + AROUND for text in texts), limit=COMMON_LIMIT, exact=False)
    config = json.loads((files.path / "config.json").read_text())
    limit = config.get("max_position_embeddings") or COMMON_LIMIT

    def tokens(texts: Sequence[str]) -> int:
        encoded = _tokenizer(str(files.path / "tokenizer.json")).encode_batch(list(texts), add_special_tokens=False)
        return sum(len(each.ids) + AROUND for each in encoded)

    return Length(tokens=tokens, limit=int(limit), exact=True)


@cache
def _tokenizer(file: str) -> Tokenizer:
    """Loaded when the first text is counted: that takes a tenth of a second."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(file)
