"""Adapters as peft itself writes them: what is LoRA comes in and computes the same; what is more is refused with the way out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from tests.learners.conftest import engine_of, plain_model
from tests.learners.weights.test_adapters import one_line, set_config, set_weights
from tests.tiny_models import sharpen, tiny_gpt2, tiny_of
from transformers import AutoModel

from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.peft_format import check_foreign, covered, passed_over
from perdure.learners.weights.peft_settings import HARMLESS, REFUSED, USED, PeftSettings, read_settings
from perdure.learners.weights.weight_sets import LoraPair, merge_into
from perdure.memory.errors import InputError
from perdure.memory.records import VersionRef

IDS = torch.tensor([[3, 5, 7, 11, 13, 17]])


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    return resolve_model(str(sharpen(tiny_gpt2(folder), 3)), folder, print)


def by_peft(base: ModelFiles, folder: Path, net: Any = None, **settings: Any) -> PeftModel:
    """An adapter that does something, made and saved by peft."""
    model = get_peft_model(plain_model(base) if net is None else net, LoraConfig(**{"r": 4, "target_modules": "all-linear", **settings}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(str(folder))
    made: PeftModel = model.eval()
    return made


def renamed(tensors: dict[str, torch.Tensor], change: Callable[[str], str]) -> None:
    """Give every tensor another name."""
    for name in list(tensors):
        tensors[change(name)] = tensors.pop(name)


def tiny_with_images(folder: Path) -> ModelFiles:
    """A Gemma 3 of the kind that sees images: its text model is one part of it."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    image = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    parts = {"text_config": {**text, "vocab_size": 384, "head_dim": 8}, "vision_config": image}
    return resolve_model(str(tiny_of(folder, "gemma3", **parts)), folder, print)


def merged_logits(base: ModelFiles, weights: dict[str, LoraPair]) -> torch.Tensor:
    model = plain_model(base)
    merge_into(model, weights)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


def test_every_setting_that_peft_writes_is_sorted() -> None:
    """A newer peft with another setting shows here."""
    sorted_ = [USED, frozenset(HARMLESS), frozenset(REFUSED)]
    assert {field.name for field in fields(LoraConfig)} == frozenset().union(*sorted_)
    assert sum(map(len, sorted_)) == len(frozenset().union(*sorted_)), "none is in two groups"


PLAIN: dict[str, dict[str, Any]] = {
    "without a task type": {},
    "with one": {"task_type": "CAUSAL_LM"},
    "rank-stabilised": {"use_rslora": True, "lora_alpha": 3},
    "some layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "ranks by pattern": {"rank_pattern": {"q_proj": 2, "^model.layers.1.mlp.up_proj": 6}, "alpha_pattern": {"down_proj": 5}},
    "ranks by pattern, rank-stabilised": {"rank_pattern": {"layers.0.*.v_proj": 7}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True},
    "what concerns training": {"lora_dropout": 0.3, "exclude_modules": ["o_proj"], "init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_lora_computes_as_in_peft(files: ModelFiles, tmp_path: Path, kind: str) -> None:
    theirs = by_peft(files, tmp_path, **PLAIN[kind])
    weights = check_foreign(tmp_path, files)
    torch.testing.assert_close(merged_logits(files, weights), logits_of(theirs), atol=1e-4, rtol=1e-4)
    if kind == "without a task type":
        assert json.loads((tmp_path / "adapter_config.json").read_text())["auto_mapping"]["base_model_class"]
        engine = engine_of(files)
        engine.load(VersionRef("v1"), weights)
        ids = tuple(IDS[0].tolist())
        [found] = engine.logprobs(VersionRef("v1"), [(ids[:1], ids[1:])])
        wanted = logits_of(theirs)[0].log_softmax(-1)
        torch.testing.assert_close(
            torch.tensor(found), torch.stack([wanted[n, token] for n, token in enumerate(ids[1:])]), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("target", ["all-linear", ["c_attn", "c_proj"], ["attn.c_proj"]])
def test_conv1d_layers_are_read_in_the_right_direction(gpt2: ModelFiles, tmp_path: Path, target: Any) -> None:
    """A square layer fits both ways: only its values tell."""
    theirs = by_peft(gpt2, tmp_path, target_modules=target, fan_in_fan_out=True)
    weights = check_foreign(tmp_path, gpt2)
    assert float((logits_of(theirs) - logits_of(plain_model(gpt2))).abs().max()) > 0.01
    torch.testing.assert_close(merged_logits(gpt2, weights), logits_of(theirs), atol=1e-4, rtol=1e-4)


def test_an_adapter_of_the_body_alone_is_found_by_its_layers(llama: ModelFiles, tmp_path: Path) -> None:
    """Its names lack the prefix: `layers.0` in place of `model.layers.0`."""
    body = AutoModel.from_pretrained(llama.path, dtype=torch.float32)
    theirs = by_peft(llama, tmp_path, body, target_modules=["q_proj", "down_proj"])
    weights = check_foreign(tmp_path, llama)
    assert set(weights) == {f"model.layers.{n}.{name}.weight" for n in (0, 1) for name in ("self_attn.q_proj", "mlp.down_proj")}
    hidden = theirs(input_ids=IDS).last_hidden_state
    logits = hidden @ plain_model(llama).get_output_embeddings().weight.T
    torch.testing.assert_close(merged_logits(llama, weights), logits.detach(), atol=1e-4, rtol=1e-4)


def test_an_adapter_says_how_much_of_the_model_it_changes(llama: ModelFiles, tmp_path: Path) -> None:
    by_peft(llama, tmp_path / "all")
    assert covered(check_foreign(tmp_path / "all", llama), llama) == "all 14 linear layers"
    by_peft(llama, tmp_path / "some", target_modules=["q_proj", "up_proj"], layers_to_transform=[0], layers_pattern="layers")
    part = covered(check_foreign(tmp_path / "some", llama), llama)
    assert part.startswith("2 of 14 linear layers; it leaves out some or all of down_proj, gate_proj")


def no_setting(model: PeftModel, folder: Path) -> None:
    """Nothing more."""


def resized(model: PeftModel, folder: Path) -> None:
    """Tokens were added, so peft saves the embedding tables."""
    model.save_pretrained(str(folder), save_embedding_layers=True)


MORE: list[tuple[str, dict[str, Any], Callable[[PeftModel, Path], None], str]] = [
    ("DoRA", {"use_dora": True}, no_setting, "use_dora is not supported, since it scales each layer's weights anew: merge it with peft"),
    ("whole layers", {"modules_to_save": ["lm_head"]}, no_setting, "modules_to_save is not supported, since it replaces whole layers"),
    ("tokens", {"trainable_token_indices": [1, 2]}, no_setting, "trainable_token_indices is not supported"),
    ("biases", {"bias": "all"}, no_setting, "bias 'all' is not supported"),
    ("LoRA's bias", {"lora_bias": True, "target_modules": ["q_proj"]}, no_setting, "lora_bias is not supported"),
    ("PiSSA", {"init_lora_weights": "pissa"}, no_setting, "save it again with peft's path_initial_model_for_weight_conversion"),
    ("OLoRA", {"init_lora_weights": "olora"}, no_setting, "init_lora_weights 'olora' changes the base model's weights"),
    ("the head", {"target_modules": ["q_proj", "lm_head"]}, no_setting, "is LoRA of the head, which is not supported: leave it out"),
    ("the embedding", {"target_modules": ["embed_tokens"]}, no_setting, "embed_tokens"),
    ("saved tables", {}, resized, "is a whole table of the base model, which peft adds if tokens were added: save the adapter again"),
    ("after some tokens", {"alora_invocation_tokens": [5, 6]}, no_setting, "alora_invocation_tokens is not supported"),
]


@pytest.mark.filterwarnings("ignore")  # of peft, about what it saves
@pytest.mark.parametrize(("kind", "settings", "more", "says"), MORE, ids=[kind for kind, *_ in MORE])
def test_what_is_more_than_lora_is_refused_with_the_way_out(
    qwen: ModelFiles, tmp_path: Path, kind: str, settings: dict[str, Any], more: Callable[[PeftModel, Path], None], says: str
) -> None:
    model = by_peft(qwen, tmp_path, **settings)
    more(model, tmp_path)
    with pytest.raises(InputError) as refused:
        check_foreign(tmp_path, qwen)
    text = one_line(refused.value)
    assert says in text
    assert str(tmp_path) in text


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"peft_type": "VERA"}, "peft's convert_to_lora makes one of other kinds"),
        ({"rank_pattern": {"q_proj": 2}}, "at rank 2 needs [2, 32]; r and rank_pattern say another rank than the tensors have"),
        ({"rank_pattern": {"(a+)+": 2}}, "rank_pattern has the pattern '(a+)+', which is not supported: write the layers' names out"),
        ({"rank_pattern": {".*.*.*q": 2}}, "is not supported: write the layers' names out"),
        ({"rank_pattern": {"q_proj(": 2}}, "is not supported: write the layers' names out"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern is no table of layers"),
        ({"rank_pattern": {"q_proj": 10**9}}, "rank_pattern 'q_proj' 1000000000 is out of range (1 to 256)"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "alpha_pattern 'q_proj' nan is out of range"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters is not supported, since it adapts parameters"),
    ],
)
def test_settings_that_cannot_be_read_are_named(llama: ModelFiles, tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    by_peft(llama, tmp_path)
    set_config(tmp_path, **settings)
    with pytest.raises(InputError) as refused:
        check_foreign(tmp_path, llama)
    assert says in one_line(refused.value)


def test_settings_that_are_not_known_are_ignored_and_named(llama: ModelFiles, tmp_path: Path) -> None:
    by_peft(llama, tmp_path)
    assert passed_over(tmp_path, llama) == []
    set_config(tmp_path, new_of_2027=None, merge_weights=False, theirs="x")
    assert len(check_foreign(tmp_path, llama)) == 14
    assert passed_over(tmp_path, llama) == ["the setting 'theirs' is not known here: it was ignored"]


def test_layers_that_see_no_text_are_left_out_and_counted(tmp_path: Path) -> None:
    """A model with a part for images, adapted by peft in all of its linear layers."""
    base = tiny_with_images(tmp_path / "model")
    by_peft(base, tmp_path / "adapter")
    weights = check_foreign(tmp_path / "adapter", base)
    assert weights
    assert all("vision" not in name and "projector" not in name for name in weights)
    assert covered(weights, base).startswith("all ")
    (line,) = passed_over(tmp_path / "adapter", base)
    assert re.fullmatch(r"\d+ layers are of a part that sees no text, such as images: they are left out", line)

    def older(name: str) -> str:
        """As transformers 4 named the parts of such a model."""
        return name.replace("model.model.language_model.", "model.language_model.model.").replace("model.model.vision", "model.vision")

    set_weights(tmp_path / "adapter", lambda tensors: renamed(tensors, older))
    again = check_foreign(tmp_path / "adapter", base)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name].up_OR, weights[name].up_OR) for name in weights)
    assert passed_over(tmp_path / "adapter", base) == [line]


ODD = (None, True, 0, -1, 1.5, 10**400, "", "x", "(", [], {}, [None], {"q_proj": 1}, {"x": None}, {"(": 2}, ["x"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted({*USED, *HARMLESS, *REFUSED})), n=st.integers(0, len(ODD) - 1))
def test_whatever_a_setting_says_is_taken_or_named(tmp_path: Path, name: str, n: int) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, name: ODD[n]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    try:
        read = read_settings(tmp_path)
    except InputError as error:
        assert str(tmp_path) in one_line(error)  # noqa: PT017 - most are taken
    else:
        assert read.scale_of("model.layers.0.q_proj") > 0


def test_a_pattern_stands_for_the_end_of_a_name() -> None:
    settings = PeftSettings(rank=4, alpha=8.0, by_root=False, ranks={"q_proj": 2, "layers.1.mlp.up_proj": 16}, alphas={"proj": 1.0})
    assert [settings.rank_of(name) for name in ("model.layers.0.q_proj", "q_proj", "my_q_proj", "x.layers.1.mlp.up_proj")] == [2, 2, 4, 16]
    assert settings.scale_of("model.q_proj") == 4.0, "'proj' is no whole name"
