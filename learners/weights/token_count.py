"""Count the tokens of a conversation with the tokenizer's file alone: fast, because neither torch nor weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Tokenizer

from perdure.envs.check.checker import Length
from perdure.learners.weights.base_models import ModelFiles

AROUND = 8
"""An estimate of the tokens that a chat template puts around a message."""

CHARACTERS_A_TOKEN = 4
COMMON_LIMIT = 8192


def length_of(files: ModelFiles | None) -> Length:
    """How this model counts tokens; an estimate if the model is not on this machine (None) or has no tokenizer.json."""
    if files is None or not (files.path / "tokenizer.json").is_file():
        return Length(tokens=lambda texts: sum(len(text) // CHARACTERS_A_TOKEN + AROUND for text in texts), limit=COMMON_LIMIT, exact=False)
    tokenizer = Tokenizer.from_file(str(files.path / "tokenizer.json"))
    config = json.loads((files.path / "config.json").read_text())
    limit = config.get("max_position_embeddings") or COMMON_LIMIT

    def tokens(texts: Sequence[str]) -> int:
        return sum(len(encoded.ids) + AROUND for encoded in tokenizer.encode_batch(list(texts), add_special_tokens=False))

    return Length(tokens=tokens, limit=int(limit), exact=True)
