"""The settings of a LoRA adapter (PEFT's adapter_config.json). Every key that peft 0.21 writes is used, harmless, or refused.

Keys that are not known here are ignored, as PEFT ignores those of newer ones, and the import names them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.learners.weights.weight_sets import MAX_RANK
from perdure.memory.errors import InputError

PEFT_CONFIG = "adapter_config.json"
MERGE = "merge it with peft (merge_and_unload, then save_pretrained) and set model to that folder"
PLAIN = "train it as plain LoRA"

USED = frozenset({"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights", "bias"})
HARMLESS = {
    "task_type": "how peft wraps the model",
    "auto_mapping": "the class of the base model; written if no task type was given",
    "peft_version": "who wrote the file",
    "base_model_name_or_path": "checked by names and shapes instead",
    "revision": "checked by names and shapes instead",
    "inference_mode": "of training",
    "lora_dropout": "of training",
    "target_modules": "the tensors say which layers",
    "exclude_modules": "the tensors say which layers",
    "layers_to_transform": "the tensors say which layers",
    "layers_pattern": "the tensors say which layers",
    "fan_in_fan_out": "how the base stores its weights, which is read from the base",
    "megatron_config": "how training was spread",
    "megatron_core": "how training was spread",
    "loftq_config": "of init_lora_weights",
    "eva_config": "of init_lora_weights",
    "corda_config": "of init_lora_weights",
    "lora_ga_config": "of init_lora_weights",
    "velora_config": "how gradients were computed",
    "qalora_group_size": "of use_qalora",
    "runtime_config": "never saved",
    "ensure_weight_tying": "of modules_to_save and target_modules",
}
REFUSED = {
    "use_dora": ("scales each layer's weights anew", MERGE),
    "modules_to_save": ("replaces whole layers", MERGE),
    "trainable_token_indices": ("replaces rows of the embedding table", MERGE),
    "lora_bias": ("adds biases", MERGE),
    "layer_replication": ("repeats layers of the base model", "train it without"),
    "use_qalora": ("works on groups of inputs of a quantized base", PLAIN),
    "alora_invocation_tokens": ("works only after certain tokens, and cannot be merged", PLAIN),
    "target_parameters": ("adapts parameters that are no linear layers, such as experts", MERGE),
    "monteclora_config": ("draws its weights by chance", PLAIN),
    "kasa_config": ("cuts the base model's weights", MERGE),
    "use_bdlora": ("has matrices of blocks", MERGE),
    "arrow_config": ("mixes several adapters", "import one of them"),
}
"""What each does that plain LoRA does not, and the way out."""

_KEEP_BASE = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
"""Values of init_lora_weights that leave the base model unchanged."""
_CONVERTIBLE = ("pissa", "olora", "corda", "lora_ga")
_PATTERN = re.compile(r"[\w.^$\\*+?|()\[\]-]{1,200}")
_MANY = re.compile(r"\)[*+?{]|(?:[*+].*){3}")
"""Repetitions that can take for ever to match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftSettings:
    """What is used of the file."""

    rank: int
    alpha: float
    by_root: bool
    """Rank-stabilised LoRA (Kalajdzievski 2023): divided by the root of the rank."""
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    """By patterns of module names."""
    ignored: tuple[str, ...] = ()
    """Settings that are not empty, and not known here."""

    def rank_of(self, module: str) -> int:
        """The rank of a layer."""
        pattern = _matching(self.ranks, module)
        return self.rank if pattern is None else self.ranks[pattern]

    def scale_of(self, module: str) -> float:
        """The factor of a layer's product."""
        pattern, rank = _matching(self.alphas, module), self.rank_of(module)
        alpha = self.alpha if pattern is None else self.alphas[pattern]
        return alpha / (rank**0.5 if self.by_root else rank)


def read_settings(folder: Path) -> PeftSettings:
    """Read and check an adapter's settings. Raises `InputError` that names the setting and the way out."""
    try:
        config: Any = json.loads((folder / PEFT_CONFIG).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {PEFT_CONFIG}: it is not a PEFT adapter") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / PEFT_CONFIG} is not JSON: {error}") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise InputError(f"{folder} is not a LoRA adapter (peft_type {_shown(kind)}): peft's convert_to_lora makes one of other kinds")
    _check_supported(folder, config)
    ranks, alphas = _patterns(folder, config, "rank_pattern"), _patterns(folder, config, "alpha_pattern")
    rank, alpha = _rank(folder, "rank", config.get("r")), _alpha(folder, "lora_alpha", config.get("lora_alpha"))
    return PeftSettings(
        rank=rank,
        alpha=alpha,
        by_root=bool(config.get("use_rslora")),
        ranks={key: _rank(folder, f"rank_pattern {_shown(key)}", value) for key, value in ranks.items()},
        alphas={key: _alpha(folder, f"alpha_pattern {_shown(key)}", value) for key, value in alphas.items()},
        ignored=tuple(sorted(name for name, value in config.items() if value and name not in {*USED, *HARMLESS, *REFUSED})),
    )


def _check_supported(folder: Path, config: Mapping[str, Any]) -> None:
    for setting, value in config.items():
        if setting in REFUSED and value:
            does, way_out = REFUSED[setting]
            raise InputError(f"{folder}: {setting} is not supported, since it {does}: {way_out}")
    if config.get("bias", "none") not in ("none", None):
        raise InputError(f"{folder}: bias {_shown(config['bias'])} is not supported, since it trains biases too: {MERGE}")
    init = config.get("init_lora_weights", True)
    if init not in _KEEP_BASE:
        way_out = MERGE
        if str(init).startswith(_CONVERTIBLE):
            way_out = f"save it again with peft's path_initial_model_for_weight_conversion, which makes plain LoRA of it, or {MERGE}"
        raise InputError(f"{folder}: init_lora_weights {_shown(init)} changes the base model's weights: {way_out}")


def _rank(folder: Path, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RANK:
        raise InputError(f"{folder}: {name} {_shown(value)} is out of range (1 to {MAX_RANK})")
    return value


def _alpha(folder: Path, name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
        raise InputError(f"{folder}: {name} {_shown(value)} is out of range")
    return float(value)


def _patterns(folder: Path, config: Mapping[str, Any], setting: str) -> Mapping[str, Any]:
    """A table by patterns of module names. They are from a stranger: one whose matching could take for ever is refused."""
    table = config.get(setting) or {}
    if not isinstance(table, dict):
        raise InputError(f"{folder}: {setting} is no table of layers")
    for pattern in table:
        try:
            usable = _PATTERN.fullmatch(pattern) and not _MANY.search(pattern) and re.compile(pattern)
        except re.error:
            usable = None
        if not usable:
            raise InputError(f"{folder}: {setting} has the pattern {pattern[:80]!r}, which is not supported: write the layers' names out")
    return table


def _shown(value: object) -> str:
    return f"{value!r:.60}"


def _matching(table: Mapping[str, object], module: str) -> str | None:
    """The first pattern that stands for a module, by PEFT's rule: it matches the end of the name, after a dot or from the start."""
    return next((pattern for pattern in table if re.match(rf"(.*\.)?({pattern})$", module)), None)
