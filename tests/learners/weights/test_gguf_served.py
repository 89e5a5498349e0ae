"""GGUF files as llama.cpp runs them: the families that the help names answer 20 greedy tokens as the version does.

`make test-llama-cpp` installs llama-cpp-python, which compiles for minutes; without it these tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learners.conftest import engine_of, random_adapter, trainee_of
from tests.learners.weights.test_version_export import BYTES, split
from tests.tiny_models import CHATML, SPECIAL, save, sharpen, tiny_of
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from perdure.agent.home import cache_dir
from perdure.envs.policy import Message, Request
from perdure.learners.weights import gguf_tokenizer
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.gguf_file import GGUF_FAMILIES
from perdure.learners.weights.gguf_tokenizer import tokenizer_facts
from perdure.learners.weights.version_export import export_version
from perdure.memory.records import VersionRef

pytestmark = pytest.mark.llama_cpp

LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied and scaled": ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama, wide heads and biases": ("llama", {"head_dim": 16, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "granite": (
        "granite",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2, "logits_scaling": 2.0},
    ),
}
TEXTS = (
    "Which number is the largest? 12 345 6.",
    " leading and  double   spaces\n\n\ttabs, it's we'LL 'tis",
    "<|im_end|> is text here; größe, 数字, 🙂🙂!? ...",
    "1234567890 12.5% (3,000) v2.0-rc1 0x7F",
    "def f(x):\r\n\treturn x**2  # don't\n\n\n  end   ",
    "I'VE THEY'RE you'd o'clock l'été x's\u00a0y",
)


@pytest.fixture(params=list(SHAPES))
def base(request: pytest.FixtureRequest, tmp_path: Path) -> ModelFiles:
    kind, settings = SHAPES[request.param]
    folder = sharpen(tiny_of(tmp_path / "base", kind, **settings), 4)
    return resolve_model(str(folder), folder, print)


@pytest.fixture(scope="module")
def llama_cpp() -> Any:
    return pytest.importorskip("llama_cpp", reason="make test-llama-cpp installs it")


def served(llama_cpp: Any, file: Path) -> Any:
    exact = llama_cpp.GGML_TYPE_F32  # of keys and values, which are rounded otherwise
    return llama_cpp.Llama(
        str(file), n_ctx=128, n_threads=1, n_gpu_layers=0, verbose=False, logits_all=True, type_k=exact, type_v=exact, flash_attn=False
    )


def test_every_family_of_the_help_is_tried() -> None:
    assert {kind for kind, _ in SHAPES.values()} == set(GGUF_FAMILIES)


def test_llama_cpp_answers_as_the_version(llama_cpp: Any, base: ModelFiles, tmp_path: Path) -> None:
    weights = random_adapter(trainee_of(base), 1).weights()
    export_version(tmp_path / "g", "v1", base, weights, form="merged", precision="float32", gguf=True, readme="", say=lambda line: None)
    engine, version = engine_of(base), VersionRef("v1")
    engine.load(version, weights)
    prompt = (5, 6, 7, 300, 41, 90)
    [sample] = engine.generate(version, [Request(prompt_ids=prompt, max_tokens=20, temperature=0.0)])
    model = served(llama_cpp, tmp_path / "g" / "v1.gguf")
    found: list[int] = []
    for token in model.generate(list(prompt), temp=0.0, top_k=1, repeat_penalty=1.0, reset=True):
        found.append(token)
        if len(found) == 20 or token in engine.stop_ids:
            break
    assert tuple(found) == sample.action_ids
    model.reset()
    whole = [*prompt, *sample.action_ids]
    model.eval(whole)
    logp_TV = torch.tensor(model.scores[: len(whole)]).log_softmax(-1)
    [wanted] = engine.logprobs(version, [(prompt, sample.action_ids)])
    got = [float(logp_TV[len(prompt) - 1 + n, token]) for n, token in enumerate(sample.action_ids)]
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), atol=2e-3, rtol=0)


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2"])
def test_llama_cpp_splits_text_as_the_tokenizer(llama_cpp: Any, kind: str, tmp_path: Path) -> None:
    """The merges were learned from whole texts, so that text which is split elsewhere has other tokens."""
    base = resolve_model(str(base_with_tokenizer(tmp_path / "base", kind)), tmp_path, print)
    assert tokenizer_facts(base).splits_as == kind
    export_version(tmp_path / "g", "v1", base, {}, form="merged", precision="float32", gguf=True, readme="", say=lambda line: None)
    tokenizer, model = AutoTokenizer.from_pretrained(base.path), served(llama_cpp, tmp_path / "g" / "v1.gguf")
    for text in TEXTS:
        wanted = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert model.tokenize(text.encode(), add_bos=False, special=False) == wanted, text
    said = "<|im_start|>user\nhi<|im_end|>\n"
    assert model.tokenize(said.encode(), add_bos=False, special=True) == tokenizer.encode(said, add_special_tokens=False)


def base_with_tokenizer(folder: Path, kind: str) -> Path:
    """A tiny Llama whose tokenizer splits text in this way."""
    whole = {**BYTES, "use_regex": False}
    ways: dict[str, Any] = {
        "gpt-2": BYTES,
        "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
        "llama-bpe": split(gguf_tokenizer.LLAMA3),
        "smaug-bpe": split(gguf_tokenizer.LLAMA3),
        "qwen2": split(gguf_tokenizer.QWEN2),
    }
    special = [AddedToken(token, special=True) for token in SPECIAL]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([text[start : start + 7] for text in TEXTS for start in range(len(text))] * 3, trainer)
    document = json.loads(made.to_str())
    assert document["pre_tokenizer"] == whole
    document["pre_tokenizer"] = ways[kind]
    document["model"]["ignore_merges"] = kind == "llama-bpe"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )
    settings = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, **settings)
    return save(LlamaForCausalLM(config), tokenizer, folder)


@pytest.mark.model
def test_llama_cpp_answers_as_the_default_model(llama_cpp: Any, tmp_path: Path) -> None:
    base = resolve_model("smollm2-135m", cache_dir(), print)
    export_version(tmp_path / "g", "v0", base, {}, form="merged", precision="float32", gguf=True, readme="", say=lambda line: None)
    engine = engine_of(base)
    engine.load(VersionRef("v0"), {})
    prompt = engine.chat.prompt([Message(role="user", text="Which number is larger, 17 or 24? Answer in one sentence.")])
    [sample] = engine.generate(VersionRef("v0"), [Request(prompt_ids=prompt, max_tokens=20, temperature=0.0)])
    model = served(llama_cpp, tmp_path / "g" / "v0.gguf")
    found: list[int] = []
    for token in model.generate(list(prompt), temp=0.0, top_k=1, repeat_penalty=1.0, reset=True):
        found.append(token)
        if len(found) == 20 or token in engine.stop_ids:
            break
    assert tuple(found) == sample.action_ids
