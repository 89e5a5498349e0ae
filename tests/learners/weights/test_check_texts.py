"""Stored texts against their tokens: thoughts and special tags are not in a text, or are, as the settings of its home had it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.learners.chat.families import tokenizer_for
from tests.tiny_models import tiny_llama

from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.chat.template_chat import TemplateChat
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.check_texts import text_comparison
from perdure.memory.layout.blobs import pack_ids

THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}{# <answer> </answer> #}"
)


@pytest.fixture
def thinking(tmp_path: Path) -> ModelFiles:
    folder = tiny_llama(tmp_path / "model")
    tokenizer_for(THINKS).save_pretrained(folder)
    return ModelFiles(name="thinking", path=folder, hash="")


def test_an_answer_without_its_thought_agrees_with_its_tokens(thinking: ModelFiles) -> None:
    tokenizer = tokenizer_for(THINKS)
    ends = frozenset({tokenizer.eos_token_id})
    plain = TemplateChat(tokenizer, ends)
    shown = TemplateChat(tokenizer, ends, ChatSettings(show_special=("<answer>", "</answer>")))
    compare = text_comparison(thinking)
    tag, closing = (plain.encoder.controls[word] for word in ("<answer>", "</answer>"))
    said = (*plain.encoder.encode("3 is less\n</think>\n\n", start="joined"), tag, *plain.encoder.encode("7", start="joined"), closing)
    ids = (*said, tokenizer.eos_token_id)
    assert (plain.text(ids), shown.text(ids)) == ("7", "<answer>7</answer>")
    for text in ("7", "<answer>7</answer>"):
        assert compare(pack_ids(ids), text.encode()) is None
    for text in ("8", "<answer>8</answer>", "less\n7", ""):
        assert compare(pack_ids(ids), text.encode()) == "3 is less\n</think>\n\n7"
