"""Models that cannot be used are refused in one line that says why, before anything is played."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_models import save, sharpen, tiny_llama, tokenizer_of
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from perdure.learners.engines.version_loading import open_transformers_engine
from perdure.learners.weights.base_models import resolve_model
from perdure.memory.errors import InputError
from perdure.memory.store import Store, create_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return sharpen(tiny_llama(tmp_path / "model"), 1)


def refusal(store: Store, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_transformers_engine(store, resolve_model(str(folder), folder, print), device="cpu", seed=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(folder: Path, how: Callable[[dict[str, Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    how(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "model.norm.weight"])
def test_a_weight_that_no_file_has_is_named(store: Store, folder: Path, name: str) -> None:
    change(folder, lambda weights: (weights.pop(name), None)[1])
    said = refusal(store, folder)
    assert f"lacks weights that a llama model needs: {name}, in none of its files (model.safetensors)" in said or "embed" in name
    assert name in said or "lm_head.weight" in said


def test_of_many_weights_that_are_missing_some_are_named(store: Store, folder: Path) -> None:
    def without_a_layer(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if ".layers.1." in name]:
            del weights[name]

    change(folder, without_a_layer)
    assert "and 6 more" in refusal(store, folder)


def test_a_weight_of_another_shape_is_named(store: Store, folder: Path) -> None:
    change(folder, lambda weights: weights.update({"model.layers.0.mlp.up_proj.weight": torch.ones(3, 32)}))
    assert "weights of another shape than its config.json says: model.layers.0.mlp.up_proj.weight" in refusal(store, folder)


def test_weights_that_are_no_numbers_are_refused(store: Store, folder: Path) -> None:
    change(folder, lambda weights: weights.update({"model.norm.weight": torch.full((32,), torch.nan)}))
    assert "give values that are not finite" in refusal(store, folder)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_a_file_that_is_no_safetensors_file_is_refused(store: Store, folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "cannot be loaded" in refusal(store, folder)


def test_a_tokenizer_of_another_model_is_refused(store: Store, tmp_path: Path) -> None:
    tokenizer = tokenizer_of()
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    folder = save(LlamaForCausalLM(config), tokenizer, tmp_path / "model")
    assert "its model knows only 100 tokens: they belong to different models" in refusal(store, folder)


def test_an_added_token_that_no_text_is_encoded_to_may_lie_beyond_the_vocabulary(store: Store, folder: Path) -> None:
    """As '<image_soft_token>' of Gemma 3 of 1B."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(folder)
    assert open_transformers_engine(store, resolve_model(str(folder), folder, print), device="cpu", seed=0)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (BloomForCausalLM(BloomConfig(vocab_size=400, hidden_size=32, n_layer=1, n_head=4)), "does not say how long a sequence may be"),
        (MambaForCausalLM(MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1)), "a mamba model has no attention"),
        (
            BertLMHeadModel(
                BertConfig(
                    vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, is_decoder=False
                )
            ),
            "a bert model computes its answers in a way that Perdure does not support",
        ),
        (
            T5ForConditionalGeneration(T5Config(vocab_size=400, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)),
            "cannot be loaded",
        ),
    ],
    ids=["bloom", "mamba", "bert", "t5"],
)
def test_kinds_of_models_that_are_not_supported_are_named(store: Store, tmp_path: Path, model: PreTrainedModel, reason: str) -> None:
    folder = save(model, tokenizer_of(), tmp_path / "model")
    sharpen(folder, 3)
    assert reason in refusal(store, folder)


def in_shards(folder: Path, shards: int = 3) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    places = {name: f"model-{1 + n % shards:05}-of-{shards:05}.safetensors" for n, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == shard}, folder / shard, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize("stray", [b"garbage", None])
def test_a_file_that_the_index_does_not_name_does_not_count(store: Store, folder: Path, stray: bytes | None) -> None:
    in_shards(folder)
    alone = resolve_model(str(folder), folder, print)
    if stray is None:
        save_file({"model.layers.0.mlp.up_proj.weight": torch.ones(2, 3)}, folder / "consolidated.safetensors", {"format": "pt"})
    else:
        (folder / "consolidated.safetensors").write_bytes(stray)
    beside = resolve_model(str(folder), folder, print)
    assert beside.hash == alone.hash
    assert open_transformers_engine(store, beside, device="cpu", seed=0)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ('{"weight_map": {"a": "model-00009-of-00009.safetensors"}}', "names model-00009-of-00009.safetensors, which is not in"),
        ("{", "is damaged or no index of weights"),
        ("[]", "is damaged or no index of weights"),
        ('{"weight_map": {}}', "names no files"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "which is no safetensors file of its folder"),
        ('{"weight_map": {"a": 3}}', "names 3, which is no safetensors file"),
    ],
)
def test_an_index_that_cannot_be_followed_is_named(folder: Path, index: str, reason: str) -> None:
    in_shards(folder)
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError) as caught:
        resolve_model(str(folder), folder, print)
    assert reason in str(caught.value)
    assert "model.safetensors.index.json" in str(caught.value)


def test_a_single_file_with_another_name_is_not_found_by_chance(folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder / "consolidated.safetensors")
    with pytest.raises(InputError, match=r"has no weights: expected model\.safetensors, or model\.safetensors\.index\.json"):
        resolve_model(str(folder), folder, print)
