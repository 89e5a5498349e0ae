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
    return TemplateChat(tokenizer, named_ends(folder, tokenizer), settings), tokenizer


def named_ends(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer by the model's files: its generation configuration, or else its configuration, and its tokenizer."""
    named = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        with suppress(OSError, ValueError, AttributeError):
            document: Any = json.loads((folder / name).read_text())
            found = document.get("eos_token_id", document.get("text_config", {}).get("eos_token_id"))
            if found is not None:
                named |= set(found) if isinstance(found, list) else {found}
                break
    return frozenset(token for token in named if isinstance(token, int))
