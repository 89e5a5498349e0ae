"""A tokenizer as a GGUF file holds it: byte-level BPE, with the name by which llama.cpp knows how it splits text before merging.

The name is found by what tokenizer.json does, not by the model's name. Other tokenizers (SentencePiece, WordPiece) are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from perdure.learners.weights.base_models import ModelFiles
from perdure.memory.errors import InputError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3, QWEN2 = _WORDS % r"\p{N}{1,3}", _WORDS % r"\p{N}"
"""The regular expressions of Llama 3 and Qwen 2, by which their tokenizers split text; they differ in how many digits are one piece."""
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Kinds of tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFacts:
    """What is read of tokenizer.json."""

    splits_as: str
    """llama.cpp's name of how text is split."""
    vocabulary: Mapping[str, int]
    added: Sequence[Mapping[str, Any]]
    merges: Sequence[str]


def tokenizer_facts(base: ModelFiles) -> TokenizerFacts:
    """Read a tokenizer. Raises `InputError` if a GGUF file cannot hold it."""
    try:
        whole: Any = json.loads((base.path / "tokenizer.json").read_text())
        model = whole["model"]
        if model.get("type", "BPE") != "BPE" or model.get("byte_fallback"):
            raise _refused(base, "it is no byte-level BPE")
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        splits_as = _splits_as(whole.get("pre_tokenizer"), ignores_merges=bool(model.get("ignore_merges")))
        added = [dict(token) for token in whole.get("added_tokens") or ()]
        vocabulary = dict(model["vocab"])
    except FileNotFoundError as error:
        raise _refused(base, "it has no tokenizer.json") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise _refused(base, f"tokenizer.json cannot be read ({type(error).__name__}: {error})") from error
    if splits_as is None:
        raise _refused(base, "it splits text in a way that is not known here")
    return TokenizerFacts(splits_as=splits_as, vocabulary=vocabulary, added=added, merges=merges)


def add_tokenizer(writer: Any, base: ModelFiles, vocabulary_size: int) -> None:
    """Write the tokens, merges, special ids and chat template of a base model's tokenizer."""
    from transformers import AutoTokenizer

    facts = tokenizer_facts(base)
    highest = max([*facts.vocabulary.values(), *(one["id"] for one in facts.added)], default=0)
    if highest >= vocabulary_size:
        raise _refused(base, f"it has the token {highest}, the model only {vocabulary_size}")
    tokens: list[str] = [f"[PAD{n}]" for n in range(vocabulary_size)]
    kinds = [UNUSED] * vocabulary_size
    for text, n in facts.vocabulary.items():
        tokens[n], kinds[n] = text, NORMAL
    for one in facts.added:
        tokens[one["id"]], kinds[one["id"]] = one["content"], CONTROL if one.get("special") else USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(facts.splits_as)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(facts.merges)
    tokenizer: Any = AutoTokenizer.from_pretrained(base.path, trust_remote_code=False)
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if number is not None:
            add(number)
    begins = tokenizer.encode("a")
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and begins[:1] == [tokenizer.bos_token_id])
    writer.add_add_space_prefix(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _splits_as(pre_tokenizer: Any, *, ignores_merges: bool) -> str | None:
    """llama.cpp's name of a pre-tokenizer; None if it has none."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer and pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if not steps or steps[-1] is None or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    *before, last = steps
    by_words = last.get("use_regex", True)
    if ignores_merges:
        return "llama-bpe" if _is_split(before, LLAMA3) and not by_words else None
    if not before:
        return "gpt-2" if by_words else None
    if len(before) == 1 and before[0]["type"] == "Digits" and before[0].get("individual_digits"):
        return "smollm" if by_words else None
    if by_words:
        return None
    if _is_split(before, LLAMA3):
        return "smaug-bpe"  # as llama-bpe, but it minds the merges
    return "qwen2" if _is_split(before, QWEN2) else None


def _is_split(steps: Sequence[Any], regex: str) -> bool:
    return (
        len(steps) == 1
        and steps[0]["type"] == "Split"
        and steps[0]["pattern"] == {"Regex": regex}
        and steps[0]["behavior"] == "Isolated"
        and not steps[0].get("invert")
    )


def _refused(base: ModelFiles, why: str) -> InputError:
    return InputError(f"the tokenizer of {base.name} cannot be written as GGUF: {why}; leave out --gguf")
