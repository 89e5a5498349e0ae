"""LoRA adapters in PEFT's two files.

An imported adapter is not trusted: no pickles, no links, no code, and every tensor must fit the base model and be finite.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import MAX_RANK, LoraPair
from perdure.memory.errors import InputError

MAX_ADAPTER_BYTES = 4 * 2**30
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_UNSUPPORTED = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "auto_mapping",
    "lora_bias",
    "layer_replication",
    "use_qalora",
)
_KEEP_BASE = (True, False, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the base model unchanged; those for PiSSA, OLoRA, LoftQ and CorDA change it."""
_MAY_BE_CONV1D = ("c_attn", "c_fc", "c_proj")
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])(\.default)?\.weight$")


def write_lora(folder: Path, weights: Mapping[str, LoraPair], base: ModelFiles) -> None:
    """Write PEFT's two files for these layers into an existing folder.

    PEFT has one rank and one scale (alpha / rank) for all layers: pairs of lower rank are padded with zeros, and a difference in scale is
    multiplied into the up matrix, so every product stays the same. Raises `InputError` for values that are not finite.
    """
    from peft import LoraConfig

    rank = max(len(pair.down_RI) for pair in weights.values())
    scale = next(iter(weights.values())).scale
    tensors: dict[str, Tensor] = {}
    for name, pair in weights.items():
        module = name.removesuffix(".weight")
        down, up = pair.down_RI.detach().cpu(), pair.up_OR.detach().cpu()
        if not (bool(down.isfinite().all()) and bool(up.isfinite().all())):
            raise InputError(f"the adapter of {module} has values that are not finite: it has diverged; learn with a smaller lr")
        if pair.scale != scale:
            up = up * (pair.scale / scale)
        if len(down) < rank:
            down = torch.cat([down, down.new_zeros(rank - len(down), down.shape[1])])
            up = torch.cat([up, up.new_zeros(len(up), rank - up.shape[1])], 1)
        tensors[f"base_model.model.{module}.lora_A.weight"] = down.contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = up.contiguous()
    save_file(tensors, folder / PEFT_WEIGHTS, {"format": "pt"})
    alpha = scale * rank
    config = LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if alpha.is_integer() else cast(int, alpha),
        target_modules=_target_modules([name.removesuffix(".weight") for name in weights], base),
        task_type="CAUSAL_LM",
        lora_dropout=0.0,
        fan_in_fan_out=bool(_conv1d(base, (name.removesuffix(".weight") for name in weights))),
        base_model_name_or_path=base.name,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))


def check_foreign(folder: Path, base: ModelFiles) -> dict[str, LoraPair]:
    """Read an untrusted PEFT adapter folder. Raises `InputError` naming what is wrong."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give one with {PEFT_CONFIG} and {PEFT_WEIGHTS}")
    for file in folder.iterdir():
        if file.is_symlink():
            raise InputError(f"{file} is a link: copy the adapter's files into one folder")
        if not (file.is_file() or file.is_dir()):
            raise InputError(f"{file} is not a plain file: copy the adapter's files into a folder of their own")
    if not (folder / PEFT_WEIGHTS).is_file():
        pickles = [file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
        detail = f"{pickles[0]} is a pickle, which can run code" if pickles else f"there is no {PEFT_WEIGHTS}"
        raise InputError(f"{folder} cannot be imported: {detail}; save the adapter as safetensors")
    if (folder / PEFT_WEIGHTS).stat().st_size > MAX_ADAPTER_BYTES:
        raise InputError(
            f"{folder / PEFT_WEIGHTS} has more than {MAX_ADAPTER_BYTES // 2**30} GiB: save it as bfloat16, or train one of lower rank"
        )
    return read_table(folder, base)


def read_table(folder: Path, base: ModelFiles) -> dict[str, LoraPair]:
    """The adapter's layers, each checked against the base model. Raises `InputError`."""
    config = _read_config(folder)
    parts: dict[str, dict[str, Tensor]] = {}
    shapes = base_shapes(base)
    try:
        with safe_open(folder / PEFT_WEIGHTS, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - safe_open is not a dict
                match = _KEY.match(key)
                if match is None:
                    raise InputError(f"{folder}: {key!r} is not a LoRA weight of a linear layer; no other can be used")
                module = match["module"]
                if module not in shapes:
                    raise InputError(f"{folder}: the base model {base.name} has no layer {module!r}: the adapter belongs to another model")
                out_features, in_features = shapes[module]
                expected = [config.rank, in_features] if match["part"] == "A" else [out_features, config.rank]
                shape = weights.get_slice(key).get_shape()
                if shape != expected:
                    raise InputError(f"{folder}: {key!r} has shape {shape}, {base.name} at rank {config.rank} needs {expected}")
                tensor = weights.get_tensor(key)
                if tensor.dtype not in _DTYPES:
                    raise InputError(f"{folder}: {key!r} is of type {tensor.dtype}; save the adapter as float32, float16 or bfloat16")
                if not bool(torch.isfinite(tensor).all()):
                    raise InputError(f"{folder}: {key!r} has values that are not finite")
                pair = parts.setdefault(module, {})
                if match["part"] in pair:
                    raise InputError(f"{folder}: layer {module!r} has lora_{match['part']} twice")
                pair[match["part"]] = tensor
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / PEFT_WEIGHTS} is damaged or not a safetensors file: {error}") from error
    for module, pair in parts.items():
        if len(pair) != 2:
            raise InputError(f"{folder}: layer {module!r} has only one half of its LoRA pair")
    if not parts:
        raise InputError(f"{folder / PEFT_WEIGHTS} has no weights")
    return {f"{module}.weight": LoraPair(down_RI=pair["A"], up_OR=pair["B"], scale=config.scale) for module, pair in parts.items()}


def base_shapes(base: ModelFiles) -> dict[str, tuple[int, int]]:
    """Shapes (out, in) of the base model's two-dimensional weights by module name; reads only the files' headers."""
    shapes: dict[str, tuple[int, int]] = {}
    for file in base.path.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - safe_open is not a dict
                shape = weights.get_slice(key).get_shape()
                if key.endswith(".weight") and len(shape) == 2 and "embed" not in key and not key.startswith("lm_head"):
                    shapes[key.removesuffix(".weight")] = (shape[0], shape[1])
    for name in _conv1d(base, shapes):
        shapes[name] = shapes[name][::-1]
    return shapes


def _target_modules(modules: Sequence[str], base: ModelFiles) -> list[str]:
    """Names with which PEFT finds exactly these layers: `up_proj` if all layers of that name are adapted, else full names."""
    partly = {module.rpartition(".")[2] for module in base_shapes(base).keys() - set(modules)}
    leaves = {module: module.rpartition(".")[2] for module in modules}
    return sorted({module if leaf in partly else leaf for module, leaf in leaves.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Config:
    """What is used of PEFT's adapter_config.json."""

    rank: int
    scale: float


def _read_config(folder: Path) -> _Config:
    try:
        config: Any = json.loads((folder / PEFT_CONFIG).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {PEFT_CONFIG}: it is not a PEFT adapter") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / PEFT_CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InputError(f"{folder} is not a LoRA adapter (peft_type {config.get('peft_type') if isinstance(config, dict) else None!r})")
    for setting in _UNSUPPORTED:
        if config.get(setting):
            raise InputError(f"{folder}: {setting} is not supported; train the adapter as plain LoRA")
    if config.get("init_lora_weights", True) not in _KEEP_BASE:
        raise InputError(
            f"{folder}: init_lora_weights {config['init_lora_weights']!r} changes the base model's weights; convert it to plain LoRA"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not 1 <= rank <= MAX_RANK:
        raise InputError(f"{folder}: rank {rank!r} is out of range (1 to {MAX_RANK})")
    if not isinstance(alpha, int | float) or not 0 < float(alpha) < 1e6:
        raise InputError(f"{folder}: lora_alpha {alpha!r} is out of range")
    # rank-stabilised LoRA (Kalajdzievski 2023) divides by the root of the rank
    return _Config(rank=rank, scale=float(alpha) / (rank**0.5 if config.get("use_rslora") else rank))


def _conv1d(base: ModelFiles, names: Iterable[str]) -> list[str]:
    """The modules of a model that are Conv1D, whose weights are stored as (in, out), as in GPT-2."""
    if not any(name.endswith(_MAY_BE_CONV1D) for name in names):
        return []
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.path))
    return [name for name, module in model.named_modules() if isinstance(module, Conv1D)]
