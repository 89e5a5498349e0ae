"""Ten families of small models and some others, with random weights, in the shape of their real configurations, only smaller.

What differs between families is as in the models that people run: kinds of layers and their order, rotary positions, norms of queries and
keys, multipliers, windows, sinks, experts, tied heads, and a vision part where the published model has one. Windows and chunks are so short
that every test goes beyond them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_models import save, sharpen, tokenizer_of
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteMoeHybridConfig,
    GraniteMoeHybridForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Ministral3Config,
    Ministral3ForCausalLM,
    MinistralConfig,
    MinistralForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

CONTEXT = 512
Shared = dict[str, Any]
"""What all configurations have in common: vocabulary, tokens, context."""


def smollm2(shared: Shared) -> PreTrainedModel:
    """SmolLM2: a Llama with tied embeddings."""
    rope = {"rope_type": "default", "rope_theta": 100000.0}
    return LlamaForCausalLM(LlamaConfig(**_small(shared, num_key_value_heads=2), tie_word_embeddings=True, rope_parameters=rope))


def smollm3(shared: Shared) -> PreTrainedModel:
    """SmolLM3: no positions in each fourth layer."""
    rope = {"rope_type": "default", "rope_theta": 5000000.0}
    return SmolLM3ForCausalLM(SmolLM3Config(**_small(shared, layers=4), rope_parameters=rope, no_rope_layer_interval=4))


def llama32(shared: Shared) -> PreTrainedModel:
    """Llama 3.2: scaled rotary positions, tied embeddings, heads whose width is given."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    return LlamaForCausalLM(LlamaConfig(**_small(shared), head_dim=8, tie_word_embeddings=True, rope_parameters=rope))


def qwen25(shared: Shared) -> PreTrainedModel:
    """Qwen2.5: biases on queries, keys and values."""
    return Qwen2ForCausalLM(Qwen2Config(**_small(shared), tie_word_embeddings=True, use_sliding_window=False, sliding_window=32768))


def qwen3(shared: Shared) -> PreTrainedModel:
    """Qwen3: norms of queries and keys, heads wider than the model's width by their number."""
    return Qwen3ForCausalLM(Qwen3Config(**_small(shared), head_dim=16, tie_word_embeddings=True))


def qwen35(shared: Shared) -> PreTrainedModel:
    """Qwen3.5: three layers of a gated delta rule to one of gated attention; published with a vision part."""
    text = {
        **_small(shared, layers=4),
        "head_dim": 16,
        "tie_word_embeddings": True,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000000.0,
            "partial_rotary_factor": 0.5,
            "mrope_interleaved": True,
            "mrope_section": [2, 1, 1],
        },
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 4,
    }
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision, tie_word_embeddings=True))


def gemma3(shared: Shared) -> PreTrainedModel:
    """Gemma 3 of 270M and 1B: five layers with a window to one without, two sets of rotary positions, scaled embeddings."""
    return Gemma3ForCausalLM(Gemma3TextConfig(**_small(shared, layers=6), head_dim=16, query_pre_attn_scalar=16, sliding_window=16))


def gemma3_4b(shared: Shared) -> PreTrainedModel:
    """Gemma 3 of 4B and more: the same with a vision part."""
    text = {**_small(shared, layers=6), "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4))


def mistral(shared: Shared) -> PreTrainedModel:
    """Mistral 7B of version 0.3: without a window."""
    return MistralForCausalLM(MistralConfig(**_small(shared), sliding_window=None))


def mistral_window(shared: Shared) -> PreTrainedModel:
    """Mistral 7B of version 0.1: a window in all layers."""
    return MistralForCausalLM(MistralConfig(**_small(shared), sliding_window=16))


def ministral(shared: Shared) -> PreTrainedModel:
    """Ministral 8B: layers with a window among others."""
    kinds = ["full_attention", "sliding_attention", "sliding_attention"]
    return MinistralForCausalLM(MinistralConfig(**_small(shared, layers=3), head_dim=8, sliding_window=16, layer_types=kinds))


def ministral3(shared: Shared) -> PreTrainedModel:
    """Ministral 3: rotary positions scaled by YaRN, queries scaled by position."""
    rope = {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    }
    return Ministral3ForCausalLM(Ministral3Config(**_small(shared), head_dim=8, rope_parameters=rope))


def phi4_mini(shared: Shared) -> PreTrainedModel:
    """Phi-4-mini: one matrix for queries, keys and values and one for both halves of the MLP, rotary positions for a part of each head."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.1, 1.2],
        "long_factor": [1.0, 2.0, 4.0],
        "original_max_position_embeddings": CONTEXT // 2,
    }
    wide = {**_small(shared), "max_position_embeddings": CONTEXT}
    return Phi3ForCausalLM(
        Phi3Config(
            **wide, original_max_position_embeddings=CONTEXT // 2, rope_parameters=rope, tie_word_embeddings=True, sliding_window=262144
        )
    )


def granite4(shared: Shared) -> PreTrainedModel:
    """Granite 4 'h-micro' and 'h-350m': Mamba-2 layers, attention without positions, four multipliers."""
    return GraniteMoeHybridForCausalLM(_granite(shared, num_local_experts=0, num_experts_per_tok=0))


def granite4_tiny(shared: Shared) -> PreTrainedModel:
    """Granite 4 'h-tiny': the same with experts beside a shared MLP."""
    return GraniteMoeHybridForCausalLM(_granite(shared, num_local_experts=4, num_experts_per_tok=2))


def gpt_oss(shared: Shared) -> PreTrainedModel:
    """gpt-oss: attention sinks, a window in each second layer, experts with biases, YaRN."""
    rope = {
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 16,
    }
    return GptOssForCausalLM(
        GptOssConfig(**_small(shared), head_dim=8, sliding_window=16, num_local_experts=4, num_experts_per_tok=2, rope_parameters=rope)
    )


def gpt2(shared: Shared) -> PreTrainedModel:
    """GPT-2: Conv1D layers, learned positions."""
    tokens = {name: shared[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    return GPT2LMHeadModel(GPT2Config(**tokens, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4))


def gemma2(shared: Shared) -> PreTrainedModel:
    """Gemma 2: capped attention logits and capped logits."""
    return Gemma2ForCausalLM(Gemma2Config(**_small(shared), head_dim=16, query_pre_attn_scalar=16, sliding_window=16))


def mixtral(shared: Shared) -> PreTrainedModel:
    """Mixtral: experts, each of which has files of its own."""
    return MixtralForCausalLM(MixtralConfig(**_small(shared), num_local_experts=4, num_experts_per_tok=2, sliding_window=None))


def qwen3_moe(shared: Shared) -> PreTrainedModel:
    """Qwen3 with experts."""
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(**_small(shared), head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16))


FAMILIES: dict[str, Callable[[Shared], PreTrainedModel]] = {
    "smollm2": smollm2,
    "smollm3": smollm3,
    "llama-3.2": llama32,
    "qwen2.5": qwen25,
    "qwen3": qwen3,
    "qwen3-moe": qwen3_moe,
    "qwen3.5": qwen35,
    "gemma-3-1b": gemma3,
    "gemma-3-4b": gemma3_4b,
    "mistral": mistral,
    "mistral-window": mistral_window,
    "ministral": ministral,
    "ministral-3": ministral3,
    "phi-4-mini": phi4_mini,
    "granite-4-micro": granite4,
    "granite-4-tiny": granite4_tiny,
    "gpt-oss": gpt_oss,
    "gpt-2": gpt2,
    "gemma-2": gemma2,
    "mixtral": mixtral,
}
SHORT = {"smollm2", "qwen3", "gemma-3-1b", "gpt-oss", "granite-4-tiny"}
EACH_FAMILY = [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.long]) for name in FAMILIES]
"""Each kind of layer is in one of `SHORT`; `make test-long` takes the others."""

BY_ROWS = {"qwen3.5", "granite-4-micro", "granite-4-tiny", "gpt-oss", "gemma-2"}
"""Families that a token tree cannot compute."""

FROM_ZERO = {"qwen3.5", "gemma-2", "gemma-3-1b", "gemma-3-4b"}
"""Families whose norms multiply by 1 + weight."""


def family(name: str, path: Path, *, seed: int = 0, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """A model of this family in the folder `path`, with a tokenizer of ours or the one that is given; gives the folder."""
    tokenizer = tokenizer or tokenizer_of()
    shared = {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": CONTEXT,
    }
    torch.manual_seed(seed)
    sharpen(save(FAMILIES[name](shared), tokenizer, path), seed, 0.4)
    if name in FROM_ZERO:
        weights = load_file(path / "model.safetensors")
        norms = {key: weight - 1 for key, weight in weights.items() if "norm" in key and "linear_attn.norm" not in key}
        save_file(weights | norms, path / "model.safetensors", {"format": "pt"})
    return path


def _small(shared: Shared, *, layers: int = 2, num_key_value_heads: int = 2) -> Shared:
    return {
        **shared,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": num_key_value_heads,
    }


def _granite(shared: Shared, **experts: int) -> GraniteMoeHybridConfig:
    return GraniteMoeHybridConfig(
        **_small(shared, layers=4),
        **experts,
        shared_intermediate_size=48,
        layer_types=["linear_attention", "full_attention", "linear_attention", "linear_attention"],
        position_embedding_type="nope",
        embedding_multiplier=3.0,
        attention_multiplier=0.2,
        residual_multiplier=0.3,
        logits_scaling=2.0,
        mamba_n_heads=4,
        mamba_d_head=16,
        mamba_d_state=8,
        mamba_n_groups=1,
        mamba_chunk_size=16,
        tie_word_embeddings=True,
    )


def packed(folder: Path) -> Path:
    """Pack the experts of a gpt-oss as it is published, in MXFP4: pairs of four bits, and a scale for each 32 of them."""
    generator = torch.Generator().manual_seed(1)
    weights = {name: weight.bfloat16() for name, weight in load_file(folder / "model.safetensors").items()}
    for name in [name for name in weights if name.endswith("_proj") and "experts" in name]:
        experts, inputs, outputs = weights.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8, generator=generator)
        weights[f"{name}_blocks"] = blocks
        weights[f"{name}_scales"] = torch.randint(121, 125, blocks.shape[:3], dtype=torch.uint8, generator=generator)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": skipped}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
