"""Versions as files that other programs serve: a PEFT adapter, a merged model with its tokenizer, and that as GGUF (`gguf_file.py`).

A merged model is computed in float32 and stored so, unless another precision is asked for: rounded to bfloat16 a sum loses most of what a
small adapter changes. Files are written beside the wanted folder, read again, and renamed at the end, so it is complete or absent.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, GenerationConfig

from perdure.learners.model.loading import load_net
from perdure.learners.weights.base_models import ModelFiles, model_files
from perdure.learners.weights.gguf_file import require_gguf, write_gguf
from perdure.learners.weights.hub_models import is_hub_id
from perdure.learners.weights.peft_format import write_lora
from perdure.learners.weights.weight_sets import LoraPair, Weights, merge_into
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.files import MAKING, publish, remove_unfinished

Form = Literal["peft", "merged"]
Precision = Literal["float32", "bfloat16", "float16"]
FORMS: tuple[str, ...] = get_args(Form)
PRECISIONS: tuple[str, ...] = get_args(Precision)
README = "README.md"
_WRITTEN_BY_TRANSFORMERS = ("config.json", "perdure-manifest.json")


def export_version(
    out: Path,
    name: str,
    base: ModelFiles,
    weights: Weights,
    *,
    form: Form,
    precision: Precision,
    gguf: bool,
    readme: str,
    say: Callable[[str], None],
) -> list[Path]:
    """Write a version into the new folder `out`; the files, in order.

    Raises `InputError` if the folder is not empty or the version has no such form, `RuntimeFailure` if it cannot be written.
    """
    _check_form(name, weights, form, gguf=gguf)
    if gguf:
        require_gguf(base)
    if (out.exists() and not out.is_dir()) or out.is_symlink() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} exists already: name a new folder, or an empty one")
    if not out.resolve().parent.is_dir():
        raise InputError(f"{out.resolve().parent} is not a folder: make it first, or name another place")
    out = out.resolve()
    scratch = out.with_name(f"{MAKING}{out.name}-{os.getpid()}")
    try:
        remove_unfinished(out)
        scratch.mkdir()
        (scratch / README).write_text(readme)
        if form == "peft":
            _write_peft(scratch, base, weights)
        else:
            _write_merged(scratch, name, base, weights, precision, gguf=gguf, say=say)
        for file in scratch.iterdir():
            file.chmod((scratch / README).stat().st_mode)  # safetensors writes files that nobody else may read
        publish(scratch, out)
    except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise RuntimeFailure(f"could not write {out}: {reason}; nothing was written") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sorted(out.iterdir())


def merged_model(base: ModelFiles, weights: Weights) -> Any:
    """The base model with these weights merged in, in float32 on the CPU."""
    net = load_net(base, device="cpu", dtype=torch.float32, quantized=False).float()
    merge_into(net, weights)
    return net


def _check_form(name: str, weights: Weights, form: Form, *, gguf: bool) -> None:
    if form == "peft" and gguf:
        raise InputError("--gguf is for whole models: give --form merged with it")
    if form == "peft" and not weights:
        raise InputError(f"{name} is the base model itself and has no adapter: give --form merged")
    if form == "peft" and any(isinstance(one, Tensor) for one in weights.values()):
        raise InputError(f"{name} was tuned in full and has no adapter: give --form merged")


def _write_peft(folder: Path, base: ModelFiles, weights: Weights) -> None:
    pairs = {name: pair for name, pair in weights.items() if isinstance(pair, LoraPair)}
    found_as = base.name.partition("@")[0] if is_hub_id(base.name) else str(base.path)
    write_lora(folder, pairs, base, found_as=found_as)


def _write_merged(
    folder: Path, name: str, base: ModelFiles, weights: Weights, precision: Precision, *, gguf: bool, say: Callable[[str], None]
) -> None:
    say(f"merging {name} into {base.name}")
    net = merged_model(base, weights)
    if gguf:
        say("writing GGUF")
        write_gguf(folder / f"{name}.gguf", net, base, name, precision)
    say("writing safetensors")
    net.to(getattr(torch, precision))
    net.generation_config = GenerationConfig()  # the base model's own file is copied; some are refused on saving
    written = digests_of(net)
    packed = getattr(AutoConfig.from_pretrained(base.path, trust_remote_code=False), "quantization_config", None)
    net.save_pretrained(folder, save_original_format=not packed)  # transformers cannot pack again what it has unpacked
    del net
    require_read_back(folder, name, written)
    for file in model_files(base.path):
        if file.suffix != ".safetensors" and not file.name.endswith(".index.json") and file.name not in _WRITTEN_BY_TRANSFORMERS:
            shutil.copyfile(file, folder / file.name)


def digests_of(net: Any) -> dict[str, str]:
    """A sha256 of each tensor of a model."""
    return {
        name: sha256(tensor.detach().contiguous().flatten().view(torch.uint8).numpy()).hexdigest()
        for name, tensor in net.state_dict().items()
        if tensor.numel()
    }


def require_read_back(folder: Path, name: str, written: dict[str, str]) -> None:
    """Raise `RuntimeFailure` if a model that was written has other tensors once it is read: then names were lost on the way."""
    try:
        again = digests_of(load_net(ModelFiles(name=name, path=folder, hash=""), device="cpu", dtype=torch.float32, quantized=False))
    except InputError as error:
        raise RuntimeFailure(f"the merged model of {name} cannot be read again ({error}): give --form peft") from error
    if again != written:
        changed = next(key for key in sorted(again.keys() | written.keys()) if again.get(key) != written.get(key))
        raise RuntimeFailure(f"the merged model of {name} has another {changed} once it is read again: give --form peft")
