"""The chat of a model's folder, without its weights: for `perdure doctor`, and for reading stored answers."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.chat.template_chat import TemplateChat
from perdure.memory.errors import InputError


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Raises `InputError` if it cannot be loaded."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a plain Exception for files that it cannot read
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the tokenizer in {folder} cannot be loaded ({reason}): repair its files") from error
    return tokenizer


def open_chat(folder: Path, settings: ChatSettings) -> tuple[TemplateChat, PreTrainedTokenizerBase]:
    """Raises `InputError` as `TemplateChat` does."""
    tokenizer = load_tokenizer(folder)
    own = tokenizer.eos_token_id
    return TemplateChat(tokenizer, named_ends(folder) | ({own} if isinstance(own, int) else set()), settings), tokenizer


def named_ends(folder: Path) -> frozenset[int]:
    """The tokens that end an answer by the model's generation configuration, or else by its configuration."""
    for name in ("generation_config.json", "config.json"):
        with suppress(OSError, ValueError, AttributeError):
            found: Any = json.loads((folder / name).read_text()).get("eos_token_id")
            if found is not None:
                return frozenset(found if isinstance(found, list) else [found])
    return frozenset()
