"""GGUF files as llama.cpp runs them: the families that the help names answer 20 greedy tokens as the version does.

`make test-llama-cpp` installs llama-cpp-python, which compiles for minutes; without it these tests are skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learners.conftest import engine_of, random_adapter, trainee_of
from tests.tiny_models import sharpen, tiny_of

from perdure.envs.policy import Request
from perdure.learners.weights.base_models import ModelFiles, resolve_model
from perdure.learners.weights.gguf_file import GGUF_FAMILIES
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
)


@pytest.fixture(params=list(SHAPES))
def base(request: pytest.FixtureRequest, tmp_path: Path) -> ModelFiles:
    kind, settings = SHAPES[request.param]
    folder = sharpen(tiny_of(tmp_path / "base", kind, **settings), 4)
    return resolve_model(str(folder), folder, print)


def served(file: Path) -> Any:
    llama_cpp = pytest.importorskip("llama_cpp", reason="make test-llama-cpp installs it")
    return llama_cpp.Llama(str(file), n_ctx=128, n_threads=1, n_gpu_layers=0, verbose=False, logits_all=True, seed=0)


def test_every_family_of_the_help_is_tried() -> None:
    assert {kind for kind, _ in SHAPES.values()} == set(GGUF_FAMILIES)


def test_llama_cpp_answers_as_the_version(base: ModelFiles, tmp_path: Path) -> None:
    weights = random_adapter(trainee_of(base), 1).weights()
    export_version(tmp_path / "g", "v1", base, weights, form="merged", precision="float32", gguf=True, readme="", say=lambda line: None)
    engine, version = engine_of(base), VersionRef("v1")
    engine.load(version, weights)
    prompt = (5, 6, 7, 300, 41, 90)
    [sample] = engine.generate(version, [Request(prompt_ids=prompt, max_tokens=20, temperature=0.0)])
    model = served(tmp_path / "g" / "v1.gguf")
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


def test_llama_cpp_splits_text_as_the_tokenizer(llama: ModelFiles, tmp_path: Path) -> None:
    export_version(tmp_path / "g", "v1", llama, {}, form="merged", precision="float32", gguf=True, readme="", say=lambda line: None)
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(llama.path), served(tmp_path / "g" / "v1.gguf")
    for text in TEXTS:
        wanted = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert model.tokenize(text.encode(), add_bos=False, special=False) == wanted, text
    said = "<|im_start|>user\nhi<|im_end|>\n"
    assert model.tokenize(said.encode(), add_bos=False, special=True) == tokenizer.encode(said, add_special_tokens=False)


@pytest.mark.model
def test_llama_cpp_answers_as_the_default_model(tmp_path: Path) -> None:
    from perdure.agent.home import cache_dir

    base = resolve_model("smollm2-135m", cache_dir(), print)
    export_version(tmp_path / "g", "v0", base, {}, form="merged", precision="float32", gguf=True, readme="", say=lambda line: None)
    engine = engine_of(base)
    engine.load(VersionRef("v0"), {})
    from perdure.envs.policy import Message

    prompt = engine.chat.prompt([Message(role="user", text="Which number is larger, 17 or 24? Answer in one sentence.")])
    [sample] = engine.generate(VersionRef("v0"), [Request(prompt_ids=prompt, max_tokens=20, temperature=0.0)])
    model = served(tmp_path / "g" / "v0.gguf")
    found: list[int] = []
    for token in model.generate(list(prompt), temp=0.0, top_k=1, repeat_penalty=1.0, reset=True):
        found.append(token)
        if len(found) == 20 or token in engine.stop_ids:
            break
    assert tuple(found) == sample.action_ids
