"""A merged model as one GGUF file, which llama.cpp and its kin serve. The `gguf` package has the format and the names of tensors.

What is ours: which families are known, their hyperparameters, the order of rotary pairs, and scaled rotary frequencies. The tokenizer is in
`gguf_tokenizer.py`. A model with anything else is refused by name, since llama.cpp would compute something else without a word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.gguf_tokenizer import add_tokenizer, tokenizer_facts
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFamily:
    """A family of models as llama.cpp knows it."""

    architecture: str
    interleaved: bool
    """Whether llama.cpp rotates neighbouring features, not halves of a head: then rows of queries and keys change their order."""


GGUF_FAMILIES: Mapping[str, GgufFamily] = {
    "llama": GgufFamily(architecture="llama", interleaved=True),
    "mistral": GgufFamily(architecture="llama", interleaved=True),
    "qwen2": GgufFamily(architecture="qwen2", interleaved=False),
    "qwen3": GgufFamily(architecture="qwen3", interleaved=False),
    "smollm3": GgufFamily(architecture="smollm3", interleaved=True),
    "granite": GgufFamily(architecture="granite", interleaved=True),
}
"""By `model_type` of the configuration."""
_FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}
"""llama.cpp's numbers for a file that is mostly of this type."""
_SMOLLM3_STEP = 4
"""In llama.cpp every fourth layer of SmolLM3 has no rotary embedding; it cannot be set."""


def require_gguf(base: ModelFiles) -> None:
    """Raise `InputError` if a base model cannot be written as GGUF."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base.path, trust_remote_code=False)
    family = GGUF_FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(GGUF_FAMILIES)
        raise InputError(f"{base.name} is a {config.model_type} model: GGUF is written of {known}; leave out --gguf")
    _check(base, config)
    tokenizer_facts(base)


def write_gguf(file: Path, net: Any, base: ModelFiles, name: str, precision: str) -> None:
    """Write a float32 model with its base's tokenizer. Norms and rotary factors stay float32. Raises as `require_gguf`."""
    import gguf

    config = net.config
    family = GGUF_FAMILIES[config.model_type]
    writer = gguf.GGUFWriter(file, family.architecture)
    try:
        _add_settings(writer, config, name, precision)
        add_tokenizer(writer, base, config.vocab_size)
        _add_tensors(writer, net, family, precision)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _rope(config: Any) -> Mapping[str, Any]:
    parameters = getattr(config, "rope_parameters", None) or {}
    return dict(parameters)


def _head_features(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _check(base: ModelFiles, config: Any) -> None:
    """Raise `InputError` for what llama.cpp would compute otherwise."""
    rope = _rope(config)
    if rope.get("rope_type", "default") not in ("default", "linear", "llama3"):
        raise _refused(base, f"its rotary embedding is scaled as {rope['rope_type']!r}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _refused(base, "only a part of each head is rotated")
    if getattr(config, "hidden_act", "silu") != "silu":
        raise _refused(base, f"its activation is {config.hidden_act!r}")
    slides = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if slides and config.sliding_window < config.max_position_embeddings:
        raise _refused(base, f"its attention slides over {config.sliding_window} tokens")
    if config.model_type == "smollm3":
        wanted = [int((n + 1) % _SMOLLM3_STEP != 0) for n in range(config.num_hidden_layers)]
        if list(config.no_rope_layers) != wanted:
            raise _refused(base, "other layers than each fourth have no rotary embedding")


def _refused(base: ModelFiles, why: str) -> InputError:
    return InputError(f"{base.name} cannot be written as GGUF, since {why}: leave out --gguf")


def _add_settings(writer: Any, config: Any, name: str, precision: str) -> None:
    head, rope = _head_features(config), _rope(config)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[precision])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    if rope.get("rope_type") == "linear":
        import gguf

        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if config.model_type == "granite":
        writer.add_embedding_scale(float(config.embedding_multiplier))
        writer.add_residual_scale(float(config.residual_multiplier))
        writer.add_attention_scale(float(config.attention_multiplier))
        writer.add_logit_scale(float(config.logits_scaling))


def _add_tensors(writer: Any, net: Any, family: GgufFamily, precision: str) -> None:
    import gguf

    config = net.config
    architecture = next(one for one, name in gguf.MODEL_ARCH_NAMES.items() if name == family.architecture)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    if _rope(config).get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", rotary_factors(_rope(config), _head_features(config)))
    kind = getattr(gguf.GGMLQuantizationType, {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[precision])
    for name, tensor in net.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        place = names.get_name(name, (".weight", ".bias"))
        if place is None:
            raise InputError(f"the tensor {name} has no place in a GGUF file of {family.architecture}: leave out --gguf")
        values = tensor.numpy()
        if family.interleaved and ".q_proj." in name:
            values = neighbouring(values, config.num_attention_heads)
        if family.interleaved and ".k_proj." in name:
            values = neighbouring(values, config.num_key_value_heads)
        if values.ndim > 1 and precision != "float32":
            writer.add_tensor(place, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(place, values)


def neighbouring(weight: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of queries or keys in the order in which the two features of a rotary pair are neighbours; in transformers they are half a head
    apart."""
    parts = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
    return parts.swapaxes(1, 2).reshape(weight.shape)


def rotary_factors(rope: Mapping[str, Any], head_features: int) -> np.ndarray[Any, Any]:
    """What each rotary frequency is divided by, in Llama 3.1's scaling (Grattafiori et al. 2024, as transformers computes it)."""
    import numpy as np

    factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    trained = float(rope["original_max_position_embeddings"])
    found = []
    for n in range(0, head_features, 2):
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (n / head_features)
        share = min(1.0, max(0.0, (trained / wavelength - low) / (high - low)))
        found.append(1 / ((1 - share) / factor + share))
    return np.array(found, dtype=np.float32)
