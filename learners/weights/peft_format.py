"""LoRA adapters in PEFT's two files.

An imported adapter is not trusted: no pickles, no links, no code, and every tensor must fit the base model and be finite.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from perdure.learners.weights.base_layers import LinearLayers, linear_layers
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_settings import MERGE, PEFT_CONFIG, read_settings
from perdure.learners.weights.weight_sets import LoraPair
from perdure.memory.errors import InputError

MAX_ADAPTER_BYTES = 4 * 2**30
PEFT_WEIGHTS = "adapter_model.safetensors"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_KEY = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])(\.default)?\.weight$")
_OTHER_KEYS = (
    (re.compile(r"lora_magnitude_vector"), f"is of DoRA, which is not supported: {MERGE}"),
    (re.compile(r"lora_embedding_[AB]"), f"is LoRA of an embedding table, which is not supported: train linear layers only, or {MERGE}"),
    (
        re.compile(r"(embed_tokens|embed_in|embed_out|wte|lm_head)(\.base_layer|\.modules_to_save)?(\.default)?\.weight$"),
        "is a whole table of the base model, which peft adds if tokens were added: save the adapter again with save_embedding_layers=False "
        f"if none was, else {MERGE}",
    ),
    (re.compile(r"modules_to_save"), f"is of a layer that was trained as a whole, which is not supported: {MERGE}"),
    (re.compile(r"\.bias$"), f"is a bias, which is not supported: {MERGE}"),
)
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)$")
_OTHER_PARTS = re.compile(r"vision|visual|image|audio|multi_modal")
_LAYER = re.compile(r"\.?\b(?=\w+\.\d+\.)")
"""Where the layers begin in a module's name, as in `model.` + `layers.0.mlp.up_proj`."""


def write_lora(folder: Path, weights: Mapping[str, LoraPair], base: ModelFiles, *, found_as: str | None = None) -> None:
    """Write PEFT's two files for these layers into an existing folder; `found_as` is what the file calls the base model.

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
        fan_in_fan_out=any(name.removesuffix(".weight") in linear_layers(base).transposed for name in weights),
        base_model_name_or_path=found_as or base.name,
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
    """The adapter's layers, each checked against the base model; those of its parts that see no text are left out. Raises `InputError`."""
    settings, layers = read_settings(folder), linear_layers(base)
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(folder / PEFT_WEIGHTS, framework="pt") as weights:
            keys = {key: found for key, found in _keys(folder, weights.keys()).items() if not _sees_no_text(found[0], layers)}
            known = _names_in_base(folder, {module for module, _ in keys.values()}, base, layers)
            for key, (module, part) in keys.items():
                name = known[module]
                _check_shape(folder, key, part, weights.get_slice(key).get_shape(), layers.shapes[name], settings.rank_of(module), base)
                tensor = weights.get_tensor(key)
                if tensor.dtype not in _DTYPES:
                    raise InputError(f"{folder}: {key!r} is of type {tensor.dtype}; save the adapter as float32, float16 or bfloat16")
                if not bool(torch.isfinite(tensor).all()):
                    raise InputError(f"{folder}: {key!r} has values that are not finite")
                pair = parts.setdefault(module, {})
                if part in pair:
                    raise InputError(f"{folder}: layer {module!r} has lora_{part} twice")
                pair[part] = tensor
    except (SafetensorError, OSError) as error:
        raise InputError(f"{folder / PEFT_WEIGHTS} is damaged or not a safetensors file: {error}") from error
    for module, pair in parts.items():
        if len(pair) != 2:
            raise InputError(f"{folder}: layer {module!r} has only one half of its LoRA pair")
    if not parts:
        raise InputError(f"{folder / PEFT_WEIGHTS} has no weights")
    return {
        f"{known[module]}.weight": LoraPair(down_RI=pair["A"], up_OR=pair["B"], scale=settings.scale_of(module))
        for module, pair in parts.items()
    }


def base_shapes(base: ModelFiles) -> Mapping[str, tuple[int, int]]:
    """Shapes (out, in) of the linear layers that an adapter can change, by module name."""
    return linear_layers(base).shapes


def covered(weights: Collection[str], base: ModelFiles) -> str:
    """How much of the base model an adapter changes, in words."""
    known = linear_layers(base).shapes
    missing = sorted({name.rpartition(".")[2] for name in known if f"{name}.weight" not in weights})
    if not missing:
        return f"all {len(known)} linear layers"
    return f"{len(weights)} of {len(known)} linear layers; it leaves out some or all of {', '.join(missing)}"


def passed_over(folder: Path, base: ModelFiles) -> list[str]:
    """What of an adapter that was read is not used, in words."""
    with safe_open(folder / PEFT_WEIGHTS, framework="pt") as weights:
        modules = {module for module, _ in _keys(folder, weights.keys()).values()}
    elsewhere = [module for module in modules if _sees_no_text(module, linear_layers(base))]
    said = [f"the setting {name!r} is not known here: it was ignored" for name in read_settings(folder).ignored]
    if elsewhere:
        said.append(f"{len(elsewhere)} layers are of a part that sees no text, such as images: they are left out")
    return said


def _sees_no_text(module: str, layers: LinearLayers) -> bool:
    """Whether a module is of another part of the model: by its own names, or by those of other programs."""
    return module in layers.elsewhere or (module not in layers.shapes and _OTHER_PARTS.search(module) is not None)


def _keys(folder: Path, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Module and part (A or B) of each key. Raises `InputError` for a key of another kind."""
    found = {}
    for key in sorted(keys, key=lambda one: _KEY.match(one) is None):  # LoRA of the head comes before its table, which peft adds then
        match = _KEY.match(key)
        if match is None:
            why = next((why for pattern, why in _OTHER_KEYS if pattern.search(key)), f"is no LoRA weight of a linear layer: {MERGE}")
            raise InputError(f"{folder}: {key!r} {why}")
        if _HEAD.search(match["module"]):
            raise InputError(f"{folder}: {key!r} is LoRA of the head, which is not supported: leave it out of target_modules, or {MERGE}")
        found[key] = (match["module"], match["part"])
    return found


def _names_in_base(folder: Path, modules: Collection[str], base: ModelFiles, layers: LinearLayers) -> dict[str, str]:
    """The name of each module in the base model.

    Names may differ in what precedes the layers, since an adapter of the body alone, or of a model with a part for images, has another
    prefix: then the one prefix of the base is taken that fits all modules.
    """
    strangers = sorted(set(modules) - layers.shapes.keys())
    if not strangers:
        return {module: module for module in modules}
    fitting = []
    for prefix in sorted({_split(name)[0] for name in layers.shapes}):
        renamed = {module: prefix + _split(module)[1] for module in modules}
        if len({_split(module)[0] for module in modules}) == 1 and all(name in layers.shapes for name in renamed.values()):
            fitting.append(renamed)
    if len(fitting) != 1:
        raise InputError(f"{folder}: the base model {base.name} has no layer {strangers[0]!r}: the adapter belongs to another model")
    return fitting[0]


def _split(module: str) -> tuple[str, str]:
    """What precedes the layers in a module's name, and the rest: `model.` and `layers.0.mlp.up_proj`."""
    match = _LAYER.search(module)
    at = len(module) if match is None else match.end()
    return module[:at], module[at:]


def _check_shape(folder: Path, key: str, part: str, shape: list[int], features: tuple[int, int], rank: int, base: ModelFiles) -> None:
    out_features, in_features = features
    expected = [rank, in_features] if part == "A" else [out_features, rank]
    if shape != expected:
        why = f"{base.name} at rank {rank} needs {expected}"
        own = shape[0] if part == "A" else shape[-1]
        if len(shape) == 2 and own != rank:
            why += "; r and rank_pattern say another rank than the tensors have"
        raise InputError(f"{folder}: {key!r} has shape {shape}, {why}")


def _target_modules(modules: Sequence[str], base: ModelFiles) -> list[str]:
    """Names with which PEFT finds exactly these layers: `up_proj` if all layers of that name are adapted, else full names."""
    layers = linear_layers(base)
    partly = {module.rpartition(".")[2] for module in (layers.shapes.keys() | layers.elsewhere) - set(modules)}
    leaves = {module: module.rpartition(".")[2] for module in modules}
    return sorted({module if leaf in partly else leaf for module, leaf in leaves.items()})
