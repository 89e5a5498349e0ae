"""Weights of versions on disk: a LoRA adapter in PEFT's format, or all tensors of a version that was tuned in full.

Only safetensors, with a sha256 manifest that is checked before every load. A candidate is written into a scratch folder, synced, and
renamed to a name that was never used; its database row follows.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import PEFT_WEIGHTS, read_table, write_lora
from perdure.learners.weights.peft_settings import PEFT_CONFIG
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory import faults
from perdure.memory.errors import InputError, RuntimeFailure, Unavailable
from perdure.memory.files import MAKING, MANIFEST, check_files, manifest_hash, publish, sha256_of

_FULL = "full_model.safetensors"
"""All parameters of a version that was tuned in full, by their names in the base model."""


def write_version(home: Path, name: str, base: ModelFiles, save: Callable[[Path], object]) -> tuple[str, str]:
    """Write a version's folder `versions/<name>` atomically; `save(folder)` puts its files there, as `write_weights` does.

    Returns the path relative to the home, and the version's hash. Raises `RuntimeFailure` if the name is taken, `Unavailable` if the disk
    is full.
    """
    final = home / "versions" / name
    if final.exists() and any(final.iterdir()):  # an empty folder was made by `versions.reserve_name`
        raise RuntimeFailure(
            f"{final} already exists, and names of versions are never reused: learn again; the result gets the next free name"
        )
    scratch = home / "versions" / f"{MAKING}{name}-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        save(scratch)
        files = {}
        for file in sorted(scratch.iterdir()):
            if file.name in (PEFT_WEIGHTS, PEFT_CONFIG, _FULL):
                files[file.name] = {"sha256": sha256_of(file), "size_bytes": file.stat().st_size}
            else:
                file.unlink()
        manifest = {"version": name, "base_model": base.name, "base_hash": base.hash, "files": files}
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        faults.point("mid-candidate-write")
        publish(scratch, final)
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise Unavailable(f"could not write version {name}: {reason}; nothing was changed") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):  # fails if it has content or does not exist
            final.rmdir()
    return f"versions/{name}", manifest_hash(final)


def write_weights(folder: Path, weights: Weights, base: ModelFiles) -> None:
    """Write an adapter with `write_lora`, or all tensors of weights that were tuned in full; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = {name: pair for name, pair in weights.items() if isinstance(pair, LoraPair)}
    if pairs:
        write_lora(folder, pairs, base)
    else:
        tensors = {name: tensor.contiguous().cpu() for name, tensor in weights.items() if isinstance(tensor, Tensor)}
        save_file(tensors, folder / _FULL, {"format": "pt"})


def load_version(home: Path, path: str, expected_hash: str, base: ModelFiles) -> Weights:
    """Read a version's weights, after checking its files against the manifest and the manifest against `expected_hash`.

    Raises `RuntimeFailure` if a file is missing or changed, or if it was trained on another base model.
    """
    folder = home / path
    manifest = check_files(folder, expected_hash)
    if manifest.base_hash != base.hash:
        raise RuntimeFailure(f"{folder} belongs to base model {manifest.base_model} ({manifest.base_hash[:12]}), not to {base.name}")
    return _read_full(folder) if (folder / _FULL).exists() else read_table(folder, base)


def _read_full(folder: Path) -> dict[str, Tensor]:
    """All tensors of a version that was tuned in full. Raises `InputError` for values that are not finite, or a damaged file."""
    try:
        tensors = load_file(folder / _FULL)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / _FULL} is damaged or not a safetensors file: {error}") from error
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{folder}: {name!r} has values that are not finite")
    return tensors
