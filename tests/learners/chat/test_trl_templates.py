"""The 41 chat templates of TRL 1.16 (fixtures/trl-1.16.0): each is taken, token for token, and what differs by choice is named."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from typing import get_args

import pytest
from tests.learners.chat.families import Kind, tokenizer_for, trl_templates
from tests.learners.chat.said import of_template
from transformers import PreTrainedTokenizerFast

from perdure.envs.policy import Message
from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.chat.template_chat import TemplateChat
from perdure.learners.chat.template_check import check_chat

NAMES = [
    "cohere",
    "cohere2",
    "deepseek_r1_distill",
    "deepseekv3",
    "diffusion_gemma",
    "gemma",
    "gemma3",
    "gemma4",
    "gemma4_v2",
    "gemma4_v3",
    "gemma4_v4",
    "gemma4_v5",
    "glm4moe",
    "gptoss",
    "idefics3",
    "lfm2",
    "lfm2_2_5",
    "lfm2_2_5_v2",
    "lfm2_2_5_vl",
    "lfm2_v2",
    "llama3",
    "llama3_1",
    "llama3_2",
    "llava_next",
    "muse_glimmer",
    "nemotron_3_5_lightning",
    "nemotron_3_nano",
    "nemotron_3_super",
    "nemotron_3_ultra",
    "phi3",
    "phi3_5",
    "qwen2_5",
    "qwen2_5_vl",
    "qwen3",
    "qwen3_5_nothink",
    "qwen3_5_think",
    "qwen3_6",
    "qwen3_8",
    "qwen3_instruct_2507",
    "qwen3_vl",
    "smolvlm",
]
ENDS = {"cohere": "<|END_OF_TURN_TOKEN|>", "deepseek": "<｜end▁of▁sentence｜>", "gemma": "<end_of_turn>", "gptoss": "<|return|>"}
ENDS |= {"llama3": "<|eot_id|>", "phi3": "<|end|>", "idefics": "<end_of_utterance>", "smolvlm": "<end_of_utterance>", "muse": "<|eot|>"}
ENDS |= {"llava": "</s>", "glm": "<|user|>", "gemma4": "<turn|>", "diffusion": "<turn|>"}
SETTINGS = ChatSettings(date=datetime(2026, 11, 30, 13, 20, tzinfo=UTC))
CONVERSATION = (
    Message(role="system", text="Answer with one number."),
    Message(role="user", text="Which number is the largest? 3 7 5"),
    Message(role="assistant", text="7"),
    Message(role="user", text="\n\n board \n 1 | 2\n"),
    Message(role="assistant", text=" a1 "),
    Message(role="user", text=" and now?"),
)


@cache
def template_named(name: str) -> str:
    return trl_templates()[name]


def made(name: str) -> tuple[TemplateChat, PreTrainedTokenizerFast]:
    end = max((key for key in ENDS if name.startswith(key)), key=len, default="")
    tokenizer = tokenizer_for(template_named(name), end=ENDS.get(end, "<|im_end|>"), begin="<|begin|>")
    return TemplateChat(tokenizer, frozenset({tokenizer.eos_token_id}), SETTINGS), tokenizer


def test_all_are_here() -> None:
    assert sorted(trl_templates()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_what_the_template_gives(name: str) -> None:
    chat, tokenizer = made(name)
    check_chat(chat, tokenizer)
    for n in (2, 4, 6):
        for messages in (CONVERSATION[:n], CONVERSATION[1:n]):
            assert list(chat.prompt(messages)) == of_template(chat, tokenizer, messages)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_so_with_each_kind_of_tokenizer(name: str) -> None:
    own, _ = made(name)
    end = next(word for word, number in own.encoder.controls.items() if number == own.end)
    for kind in get_args(Kind):
        for swallows in (False, True):
            tokenizer = tokenizer_for(template_named(name), kind=kind, end=end, begin="<|begin|>", swallows=swallows)
            chat = TemplateChat(tokenizer, frozenset({tokenizer.eos_token_id}), SETTINGS)
            for messages in (CONVERSATION, CONVERSATION[1:4]):
                assert list(chat.prompt(messages)) == of_template(chat, tokenizer, messages)


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_an_answer_is_what_the_template_puts_there(name: str) -> None:
    chat, tokenizer = made(name)
    prompt = chat.prompt(CONVERSATION[1:2])
    for said in (chat.answer("7"), chat.answer("7")[:-1], (9,)):
        followed = chat.follow(prompt, said, " board \n")
        assert followed[: len(prompt) + len(said)] == prompt + said
        piece = list(followed[len(prompt) + len(said) :])
        whole = of_template(chat, tokenizer, [*CONVERSATION[1:3], Message(role="user", text=" board \n")])
        assert piece
        assert whole[-len(piece) :] == piece
    assert chat.follow(prompt, chat.answer("7"), "x").count(chat.end) <= of_template(chat, tokenizer, CONVERSATION[1:4]).count(chat.end) + 1


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_ends_its_turn_and_reads_as_it_was_given(name: str) -> None:
    chat, _ = made(name)
    for text in ("7", "yes, the dog", "a\n\nb"):
        answer = chat.answer(text)
        assert answer[-1] == chat.end
        assert answer.count(chat.end) == 1
        assert answer[-1] in chat.stop_ids
        assert chat.text(answer).strip() == text
    assert chat.text(()) == ""


@pytest.mark.parametrize("name", NAMES)
def test_control_words_in_messages_stay_text(name: str) -> None:
    chat, tokenizer = made(name)
    controls = chat.encoder.control_ids
    told = "".join(chat.encoder.controls)
    calm, attacked = ([i for i in chat.prompt([*CONVERSATION[:1], Message(role="user", text=t)]) if i in controls] for t in ("x", told))
    assert attacked == calm
    assert told in tokenizer.decode(list(chat.prompt([Message(role="user", text=told)])))
    prompt = chat.prompt(CONVERSATION[1:2])
    calm, attacked = ([i for i in chat.follow(prompt, (9,), text) if i in controls] for text in ("x", told))
    assert attacked == calm


@pytest.mark.parametrize("name", NAMES)
def test_with_drop_each_prompt_is_what_the_template_gives(name: str) -> None:
    tokenizer = made(name)[1]
    chat = TemplateChat(tokenizer, frozenset({tokenizer.eos_token_id}), ChatSettings(thoughts="drop", date=SETTINGS.date))
    assert chat.separate
    messages = [*CONVERSATION[1:2], Message(role="assistant", text="7", thought="3 and 5 are smaller"), *CONVERSATION[3:4]]
    assert list(chat.prompt(messages)) == of_template(chat, tokenizer, messages)
