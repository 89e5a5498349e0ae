"""Tiny models that are real: random weights, a tokenizer of their own, a ChatML template, saved as safetensors. Made in under a second.

They answer nonsense, which is enough to play, to learn and to gate with. `tiny_llama` and `tiny_qwen` differ as the families do: in
their modules' names and in what ends a turn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.utils import logging as transformers_logging

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SENTENCES = (
    "system user assistant Which number is the largest? Answer with one number: 0 1 2 3 4 5 6 7 8 9 10 11 12.",
    "Repeat the word. Say yes or no. What comes next? The answer is the first word of the sentence.",
    "apple bread chair dog east fish green house",
)


def tiny_llama(path: Path, *, seed: int = 0, context: int = 1024, features: int = 32) -> Path:
    """A Llama of two layers in the folder `path`; gives the folder. vLLM's kernels for CPUs want 128 features at least: 32 in each head."""
    tokenizer = tokenizer_of()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=features,
        intermediate_size=2 * features,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return save(LlamaForCausalLM(config), tokenizer, path)


def tiny_qwen(path: Path, *, seed: int = 0, context: int = 1024) -> Path:
    """A Qwen2 of two layers and 32 features, with biases on its queries, keys and values; either of two tokens ends a turn."""
    tokenizer = tokenizer_of()
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>")]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    return save(model, tokenizer, path)


def tiny_gpt2(path: Path, *, seed: int = 0, context: int = 256) -> Path:
    """A GPT-2 of two layers and 32 features, whose layers are Conv1D with biases, and whose positions are learned."""
    tokenizer = tokenizer_of()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=context,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(seed)
    return save(GPT2LMHeadModel(config), tokenizer, path)


def tiny_of(path: Path, kind: str, *, seed: int = 0, **settings: Any) -> Path:
    """A model of two layers and 32 features of a `model_type`, with other settings of its configuration if they are given."""
    tokenizer = tokenizer_of()
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(seed)
    return save(AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**shape, **settings})), tokenizer, path)


def tokenizer_of() -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that every text can be said."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True) for token in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, path: Path) -> Path:
    """Save both in the folder `path`; gives the folder."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def sharpen(folder: Path, seed: int, size: float = 1.0) -> Path:
    """Replace a model's weights by larger ones. Fresh weights are so small that a wrong mask or position would hardly show.

    With many layers and `size` 1 also the rounding of float32 shows.
    """
    generator = torch.Generator().manual_seed(seed)
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name, weight in sorted(weights.items()):
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name or ".ln_" in name:
            weights[name] = 1 + 0.2 * noise
        else:
            weights[name] = size * noise * (0.4 if "embed" in name or "lm_head" in name else 0.3)
    save_file(weights, file, {"format": "pt"})
    return folder


def steepen(folder: Path) -> Path:
    """Make a model's gradients larger than any number, and leave what it computes finite.

    What enters the first attention is huge and meets weights of zero: the answers do not depend on it, but the gradient of an adapter does.
    """
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.input_layernorm.weight"] *= 1e36
    for name in ("q_proj", "k_proj", "v_proj"):
        weights[f"model.layers.0.self_attn.{name}.weight"].zero_()
    save_file(weights, file, {"format": "pt"})
    return folder
