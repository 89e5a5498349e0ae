"""Copies of a tokenizer that cannot make control tokens: they know no added tokens, so that each text is only text.

Added tokens of whitespace alone (as Gemma has for line breaks) stay: they steer nothing, and without them nearly every text would have
other tokens than the template gives. A copy has no post-processor, so it adds nothing to a text.

A tokenizer may put a space before a text: before the first stretch only, or before each stretch between two control tokens. So there are
three copies: for the `first` stretch, for `later` ones, and for a text that continues (`joined`) what stands before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

Json = dict[str, Any]
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""What a model falls back to for characters that it has no piece for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainTokenizers:
    """Often all three are the same object."""

    first: Tokenizer
    later: Tokenizer
    joined: Tokenizer


def is_control(token: Mapping[str, Any]) -> bool:
    """Whether an added token is more than whitespace."""
    return bool(token["special"]) or bool(token["content"].replace("▁", "").strip())


def plain_tokenizers(document: Json) -> PlainTokenizers:
    """From the JSON form of a fast tokenizer."""
    plain = _without_controls(document)
    made: dict[str, Tokenizer] = {}

    def make(pre: Any, normalizer: Any) -> Tokenizer:
        key = json.dumps([pre, normalizer])
        if key not in made:
            made[key] = Tokenizer.from_str(json.dumps({**plain, "pre_tokenizer": pre, "normalizer": normalizer}))
        return made[key]

    pre, normalizer = plain["pre_tokenizer"], plain["normalizer"]
    return PlainTokenizers(
        first=make(pre, normalizer),
        later=make(_spaced(pre, "first"), normalizer),
        joined=make(_spaced(pre, "first", "always"), _without_prefix(normalizer)),
    )


def spotting_tokenizer(document: Json) -> tuple[Tokenizer, dict[int, tuple[str, int]]]:
    """A small tokenizer that finds added tokens in a text as the whole one does, and for each of its ids of a control token its text and
    its real id. Everything else in a text is one token, 0."""
    tokens = document["added_tokens"]
    spotter = Tokenizer.from_str(
        json.dumps(
            {
                "version": document["version"],
                "truncation": None,
                "padding": None,
                "added_tokens": [{**token, "id": n} for n, token in enumerate(tokens, start=1)],
                "normalizer": document["normalizer"],
                "pre_tokenizer": None,
                "post_processor": None,
                "decoder": None,
                "model": {"type": "WordLevel", "vocab": {"": 0}, "unk_token": ""},
            }
        )
    )
    return spotter, {n: (token["content"], token["id"]) for n, token in enumerate(tokens, start=1) if is_control(token)}


def _without_controls(document: Json) -> Json:
    """The same tokenizer without control tokens, and without a way for its model to make them of letters."""
    controls = {token["content"] for token in document["added_tokens"] if is_control(token) and not _BYTE.fullmatch(token["content"])}

    def hidden(piece: str) -> str:
        return f" {piece} " if piece in controls else piece  # no text meets a model with spaces around it

    model = dict(document["model"])
    if isinstance(model.get("vocab"), dict):
        model["vocab"] = {hidden(piece): number for piece, number in model["vocab"].items()}
    elif isinstance(model.get("vocab"), list):
        model["vocab"] = [[hidden(piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = hidden(model["unk_token"])
    if "merges" in model:
        pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        model["merges"] = [list(pair) for pair in pairs if not controls & {*pair, "".join(pair)}]
    return {
        **document,
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "added_tokens": [token for token in document["added_tokens"] if not is_control(token)],
        "model": model,
    }


def _spaced(pre: Any, *schemes: str) -> Any:
    """A pre-tokenizer that puts no space before a text if it did so by one of these schemes."""
    if not isinstance(pre, dict):
        return pre
    changed = {key: [_spaced(one, *schemes) for one in value] if isinstance(value, list) else value for key, value in pre.items()}
    if pre.get("type") == "Metaspace" and pre.get("prepend_scheme") in schemes:
        changed["prepend_scheme"] = "never"
    if pre.get("type") == "ByteLevel" and "always" in schemes:
        changed["add_prefix_space"] = False
    return changed


def _without_prefix(normalizer: Any) -> Any:
    """A normalizer that puts nothing before a text."""
    if not isinstance(normalizer, dict):
        return normalizer
    if normalizer.get("type") == "Prepend":
        return None
    if normalizer.get("type") == "Sequence":
        kept = [_without_prefix(one) for one in normalizer["normalizers"]]
        return {**normalizer, "normalizers": [one for one in kept if one is not None]}
    return normalizer
