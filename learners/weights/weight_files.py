"""Which files of a model's folder are used: as transformers chooses them, the index decides; others that lie beside it do not count."""

from __future__ import annotations

import json
from pathlib import Path

from perdure.memory.errors import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TEXTS = ("*.json", "*.jinja", "merges.txt", "vocab.txt", "*.model")
"""Configuration and tokenizer files."""


def weight_files(folder: Path) -> list[Path]:
    """The files with a model's weights, as transformers chooses them: `model.safetensors`, or those that its index names.

    Raises `InputError` if there are none, or if the index is damaged or names one that is not there.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        shards = [folder / name for name in shards_of(folder / INDEX)]
        for shard in shards:
            if not shard.is_file():
                raise InputError(f"{folder / INDEX} names {shard.name}, which is not in {folder}: fetch the model again")
        return shards
    pickles = [p.name for suffix in ("*.bin", "*.pt", "*.pth") for p in folder.glob(suffix)]
    if pickles:
        raise InputError(f"{folder} has only pickled weights ({pickles[0]}), which can run code: convert them to safetensors first")
    raise InputError(f"{folder} has no weights: expected {SINGLE}, or {INDEX} with the files that it names")


def shards_of(index: Path) -> list[str]:
    """The names of the files that an index of weights names. Raises `InputError` if it is damaged."""
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} is damaged or no index of weights ({type(error).__name__}): fetch the model again") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index} names {name!r}, which is no safetensors file of its folder: fetch the model again")
    if not names:
        raise InputError(f"{index} names no files: fetch the model again")
    return sorted(names)
