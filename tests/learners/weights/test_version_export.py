"""Exported versions answer as they did here, in whatever program reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from tests.learners.conftest import engine_of, plain_logprobs, plain_model, random_adapter, trainee_of
from tests.learners.weights.test_adapters import small_files
from tests.tiny_models import sharpen, tiny_gpt2
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from perdure.learners.weights import gguf_tokenizer
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.gguf_file import GGUF_FAMILIES, neighbouring, require_gguf, rotary_factors
from perdure.learners.weights.version_export import Form, Precision, digests_of, export_version, merged_model, require_read_back
from perdure.learners.weights.weight_sets import Weights
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.records import VersionRef

TURNS = [((5, 6, 7), (8, 9, 10)), ((11, 12), (13, 14, 15, 16))]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    return resolve_model(str(sharpen(tiny_gpt2(folder), 3)), folder, print)


@pytest.fixture(params=["llama", "qwen", "gpt2"])
def base(request: pytest.FixtureRequest) -> ModelFiles:
    found: ModelFiles = request.getfixturevalue(request.param)
    return found


def adapter(base: ModelFiles) -> Weights:
    return random_adapter(trainee_of(base), 1).weights()


def export(
    out: Path, base: ModelFiles, weights: Weights, form: Form = "merged", precision: Precision = "float32", *, as_gguf: bool = False
) -> list[str]:
    files = export_version(out, "v1", base, weights, form=form, precision=precision, gguf=as_gguf, readme="# v1\n", say=lambda line: None)
    return [file.name for file in files]


def version_logprobs(base: ModelFiles, weights: Weights) -> torch.Tensor:
    engine = engine_of(base)
    engine.load(VersionRef("v1"), weights)
    return torch.tensor([logp for logps in engine.logprobs(VersionRef("v1"), TURNS) for logp in logps])


def read_logprobs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([plain_logprobs(model.eval(), prompt, action, 1.0) for prompt, action in TURNS])


def test_a_merged_export_answers_as_the_version(base: ModelFiles, tmp_path: Path) -> None:
    weights = adapter(base)
    names = export(tmp_path / "m", base, weights)
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(names)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.dtype == torch.float32
    found = read_logprobs(model)
    torch.testing.assert_close(found, version_logprobs(base, weights), atol=1e-4, rtol=0)
    assert float((found - read_logprobs(plain_model(base))).abs().max()) > 0.01
    said = [{"role": "user", "content": "Which number?"}]
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (base.path, tmp_path / "m"))
    assert ours.apply_chat_template(said, add_generation_prompt=True) == theirs.apply_chat_template(said, add_generation_prompt=True)
    assert (tmp_path / "m" / "generation_config.json").read_bytes() == (base.path / "generation_config.json").read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def test_an_exported_adapter_is_read_by_peft(base: ModelFiles, tmp_path: Path) -> None:
    weights = adapter(base)
    assert export(tmp_path / "p", base, weights, "peft") == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    model = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "p"), dtype=torch.float32)
    torch.testing.assert_close(read_logprobs(model), version_logprobs(base, weights), atol=1e-4, rtol=0)


def test_a_version_tuned_in_full_is_exported_whole(llama: ModelFiles, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    weights = {name: plain_model(llama).get_parameter(name).detach() * 1.5}
    export(tmp_path / "m", llama, weights)
    torch.testing.assert_close(
        read_logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "m")), version_logprobs(llama, weights), atol=1e-4, rtol=0
    )
    with pytest.raises(InputError, match="v1 was tuned in full and has no adapter: give --form merged"):
        export(tmp_path / "p", llama, weights, "peft")


def test_the_base_model_is_exported_whole_only(llama: ModelFiles, tmp_path: Path) -> None:
    export(tmp_path / "m", llama, {})
    torch.testing.assert_close(read_logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "m")), read_logprobs(plain_model(llama)))
    with pytest.raises(InputError, match="v1 is the base model itself and has no adapter"):
        export(tmp_path / "p", llama, {}, "peft")


def test_a_shorter_precision_is_stored_if_it_is_asked_for(llama: ModelFiles, tmp_path: Path) -> None:
    export(tmp_path / "m", llama, adapter(llama), precision="bfloat16", as_gguf=True)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").dtype == torch.bfloat16
    kinds = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "m" / "v1.gguf").tensors}
    assert kinds["blk.0.ffn_up.weight"] == gguf.GGMLQuantizationType.BF16
    assert kinds["blk.0.ffn_norm.weight"] == gguf.GGMLQuantizationType.F32


def test_nothing_is_written_over_or_left_half(llama: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("kept")
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    weights = adapter(llama)
    for name in ("taken", "file", "link"):
        with pytest.raises(InputError, match="exists already: name a new folder, or an empty one"):
            export(tmp_path / name, llama, weights)
    with pytest.raises(InputError, match="is not a folder: make it first"):
        export(tmp_path / "no" / "where", llama, weights)
    with pytest.raises(InputError, match="--gguf is for whole models"):
        export(tmp_path / "p", llama, weights, "peft", as_gguf=True)
    with small_files(), pytest.raises(RuntimeFailure, match=r"could not write .*full: .*; nothing was written"):
        export(tmp_path / "full", llama, weights)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "link", "taken"]
    (tmp_path / "empty").mkdir()
    assert export(tmp_path / "empty", llama, weights)


def test_a_model_that_reads_back_otherwise_is_no_export(llama: ModelFiles, tmp_path: Path) -> None:
    """As transformers once wrote unpacked experts under other names."""
    export(tmp_path / "m", llama, {})
    written = digests_of(merged_model(llama, {}))
    require_read_back(tmp_path / "m", "v1", written)
    file = tmp_path / "m" / "model.safetensors"
    whole = load_file(file)
    changed = "model.layers.1.mlp.up_proj.weight"
    save_file({**whole, changed: whole[changed] + 1e-6}, file, {"format": "pt"})
    with pytest.raises(RuntimeFailure, match=f"another {changed} once it is read again"):
        require_read_back(tmp_path / "m", "v1", written)
    save_file({name: tensor for name, tensor in whole.items() if name != changed}, file, {"format": "pt"})
    with pytest.raises(RuntimeFailure, match="cannot be read again"):
        require_read_back(tmp_path / "m", "v1", written)


# --- GGUF ---


@pytest.mark.parametrize("name", ["llama", "qwen"])
def test_a_gguf_file_read_by_transformers_is_the_merged_model(request: pytest.FixtureRequest, name: str, tmp_path: Path) -> None:
    """Another reader than llama.cpp, with its own idea of the order of rotary pairs."""
    base: ModelFiles = request.getfixturevalue(name)
    weights = adapter(base)
    export(tmp_path / "g", base, weights, as_gguf=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "g", gguf_file="v1.gguf", dtype=torch.float32)
    torch.testing.assert_close(read_logprobs(model), version_logprobs(base, weights), atol=1e-4, rtol=0)


def test_a_gguf_file_says_what_the_model_is(llama: ModelFiles, tmp_path: Path) -> None:
    export(tmp_path / "g", llama, {}, as_gguf=True)
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "g" / "v1.gguf").fields.items()}
    config = LlamaConfig.from_pretrained(llama.path)
    tokenizer = AutoTokenizer.from_pretrained(llama.path)
    assert fields["general.architecture"] == "llama"
    assert fields["llama.block_count"] == 2
    assert fields["llama.rope.freq_base"] == config.rope_parameters["rope_theta"]
    assert (fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]) == (4, 2)
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.chat_template"] == tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.ggml.tokens"][: len(tokenizer)] == [tokenizer.convert_ids_to_tokens(n) for n in range(len(tokenizer))]
    kinds = dict(zip(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"], strict=True))
    assert (kinds["<|im_end|>"], kinds["a"]) == (gguf_tokenizer.CONTROL, gguf_tokenizer.NORMAL)


def changed(base: ModelFiles, folder: Path, file: str, **settings: Any) -> ModelFiles:
    """A copy of a model with other settings in a file."""
    folder.mkdir()
    for one in base.path.iterdir():
        (folder / one.name).write_bytes(one.read_bytes())
    (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **settings}))
    return ModelFiles(name="changed", path=folder, hash=str(folder))


def test_what_llama_cpp_would_compute_otherwise_is_refused(llama: ModelFiles, qwen: ModelFiles, gpt2: ModelFiles, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a gpt2 model: GGUF is written of llama, mistral, qwen2, qwen3, smollm3, granite; leave out"):
        require_gguf(gpt2)
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    cases: list[tuple[ModelFiles, str, dict[str, Any], str]] = [
        (llama, "config.json", {"rope_parameters": yarn}, "its rotary embedding is scaled as 'yarn'"),
        (llama, "config.json", {"hidden_act": "gelu"}, "its activation is 'gelu'"),
        (qwen, "config.json", {"use_sliding_window": True, "sliding_window": 8}, "its attention slides over 8 tokens"),
        (llama, "tokenizer.json", {"pre_tokenizer": {"type": "Metaspace"}}, "it splits text in a way that is not known here"),
        (llama, "tokenizer.json", {"model": {"type": "Unigram", "vocab": []}}, "it is no byte-level BPE"),
        (llama, "tokenizer.json", {"model": None}, "tokenizer.json cannot be read"),
    ]
    for n, (base, file, settings, says) in enumerate(cases):
        with pytest.raises(InputError, match=r"cannot be written as GGUF.* leave out --gguf") as refused:
            require_gguf(changed(base, tmp_path / str(n), file, **settings))
        assert says in str(refused.value)
    assert set(GGUF_FAMILIES) == {"llama", "mistral", "qwen2", "qwen3", "smollm3", "granite"}


BYTES: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def split(regex: str) -> dict[str, Any]:
    words = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [words, {**BYTES, "use_regex": False}]}


@pytest.mark.parametrize(
    ("pre_tokenizer", "ignores", "name"),
    [
        (BYTES, False, "gpt-2"),
        ({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]}, False, "smollm"),
        (split(gguf_tokenizer.LLAMA3), True, "llama-bpe"),
        (split(gguf_tokenizer.LLAMA3), False, "smaug-bpe"),
        (split(gguf_tokenizer.QWEN2), False, "qwen2"),
        (split(gguf_tokenizer.QWEN2), True, None),
        (split(r"\p{N}"), False, None),
        (BYTES, True, None),
        ({**BYTES, "add_prefix_space": True}, False, None),
        (None, False, None),
    ],
)
def test_how_text_is_split_is_known_by_what_the_tokenizer_does(pre_tokenizer: Any, ignores: bool, name: str | None) -> None:
    assert gguf_tokenizer._splits_as(pre_tokenizer, ignores_merges=ignores) == name


def test_the_regular_expression_of_llama_3_is_as_it_is_published() -> None:
    assert gguf_tokenizer.LLAMA3 == (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def test_rotary_pairs_become_neighbours() -> None:
    """One head of four features: the pairs are (0, 2) and (1, 3)."""
    rows = np.arange(8)[:, None]
    assert neighbouring(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_scaled_rotary_frequencies_are_those_of_transformers() -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(hidden_size=128, num_attention_heads=2, head_dim=64, rope_parameters=rope, max_position_embeddings=131072)
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** -(np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(plain / rotary_factors(rope, 64), wanted.numpy(), rtol=1e-5)
