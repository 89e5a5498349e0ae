"""The chat of a folder, without its weights: its end tokens are those that an engine finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.families import family
from tests.tiny_models import tiny_llama, tiny_qwen
from transformers import AutoTokenizer, GenerationConfig

from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.chat.open_chat import load_tokenizer, named_ends, open_chat
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.weights.base_models import resolve_model
from perdure.memory.errors import InputError


@pytest.mark.parametrize("make", [tiny_llama, tiny_qwen, lambda path: family("gemma-3-4b", path)], ids=["llama", "qwen", "composite"])
def test_an_answer_ends_as_in_an_engine(make: object, tmp_path: Path) -> None:
    folder: Path = make(tmp_path / "model")  # type: ignore[operator]
    engine = TransformersEngine(resolve_model(str(folder), tmp_path, print), device="cpu", dtype=torch.float32, seed=0)
    assert open_chat(folder, ChatSettings())[0].stop_ids == engine.stop_ids


def test_the_generation_configuration_comes_first(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [0, 5]}))
    assert named_ends(folder, tokenizer) == {0, 5, tokenizer.eos_token_id}
    GenerationConfig(eos_token_id=7).save_pretrained(folder)
    assert named_ends(folder, tokenizer) == {7, tokenizer.eos_token_id}


@pytest.mark.parametrize("content", ["", "{", '{"model": 1}', "[]"])
def test_a_tokenizer_that_cannot_be_read_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"the tokenizer in .* cannot be loaded") as failure:
        load_tokenizer(folder)
    assert "\n" not in str(failure.value)
