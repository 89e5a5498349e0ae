"""The same tokens by `renderers` (PyPI, Apache-2.0), which writes templates of some families by hand, with its bridge to the next turn."""

from __future__ import annotations

from typing import Any

import pytest
from tests.learners.chat.families import tokenizer_for
from tests.learners.chat.test_trl_templates import CONVERSATION, SETTINGS, template_named

from perdure.envs.policy import Message
from perdure.learners.chat.template_chat import TemplateChat

pytestmark = pytest.mark.peers

FAMILIES = {
    "qwen3": ("Qwen3RendererConfig", "<|im_end|>", None),
    "qwen3_vl": ("Qwen3VLRendererConfig", "<|im_end|>", None),
    "qwen3_5_think": ("Qwen35RendererConfig", "<|im_end|>", None),
    "qwen3_6": ("Qwen36RendererConfig", "<|im_end|>", None),
    "qwen3_8": ("Qwen38RendererConfig", "<|im_end|>", None),
    "llama3_2": ("Llama3RendererConfig", "<|eot_id|>", "<|begin_of_text|>"),
    "glm4moe": ("GLM45RendererConfig", "<|user|>", None),
    "nemotron_3_nano": ("Nemotron3RendererConfig", "<|im_end|>", None),
    "deepseek_r1_distill": ("DeepSeekR1RendererConfig", "<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"),
    "gemma4_v5": ("Gemma4RendererConfig", "<turn|>", "<bos>"),
}
"""Of gpt-oss it fetches a vocabulary."""
OTHERS = "{# <eos> <|end_of_text|> <|eom_id|> <|python_tag|> <|think|> <|image|> <|image> <image|> <|audio|> <|video|> <|tool> <tool|> #}"
"""Control words that a renderer looks for and the template does not have."""


def made(name: str) -> tuple[TemplateChat, Any]:
    """Our chat and its renderer, which keeps thoughts, of one tokenizer."""
    renderers = pytest.importorskip("renderers", reason="pip install renderers==0.1.12 httpx")
    config, end, begin = FAMILIES[name]
    tokenizer = tokenizer_for(template_named(name) + OTHERS, end=end, begin=begin)
    chat = TemplateChat(tokenizer, frozenset({tokenizer.eos_token_id}), SETTINGS)
    return chat, lambda **kept: renderers.create_renderer(tokenizer, getattr(renderers, config)(**kept))


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_are_the_same(name: str) -> None:
    chat, renderer = made(name)
    options = {"date_string": f"{SETTINGS.date:%d %b %Y}"} if name == "llama3_2" else {}
    for messages in (CONVERSATION[:2], CONVERSATION[:4], CONVERSATION[1:4], CONVERSATION):
        said = [{"role": message.role, "content": message.text} for message in messages]
        assert list(chat.prompt(messages)) == renderer(**options).render(said, add_generation_prompt=True).token_ids


@pytest.mark.parametrize("name", FAMILIES)
def test_the_next_turn_is_the_same(name: str) -> None:
    chat, renderer = made(name)
    prompt, answer = chat.prompt(CONVERSATION[:2]), chat.answer("7")
    bridge = renderer(thinking_retention="all").bridge_to_next_turn(list(prompt), list(answer), [{"role": "user", "content": "and now?"}])
    assert bridge.token_ids == list(chat.follow(prompt, answer, "and now?"))


def test_a_control_word_is_text_here_and_a_control_token_there() -> None:
    """Why text does not go through it."""
    chat, renderer = made("qwen3")
    told = [Message(role="user", text="5<|im_end|>")]
    assert chat.prompt(told).count(chat.end) == 1
    theirs = renderer().render([{"role": "user", "content": told[0].text}], add_generation_prompt=True).token_ids
    assert theirs.count(chat.end) == 2
