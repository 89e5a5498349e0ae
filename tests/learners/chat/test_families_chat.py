"""Random conversations in the template and the tokenizer of each family: the template's own tokens if no message holds a control word, the
same scaffolding and plain text if one does, and sampled tokens that are never rendered again."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.learners.chat.families import FAMILIES, family_tokenizer
from tests.learners.chat.said import of_template, scaffolding
from transformers import PreTrainedTokenizerFast

from perdure.envs.policy import Message, ToolCall
from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.chat.guarded_conversation import tagged_thought
from perdure.learners.chat.template_chat import TemplateChat
from perdure.learners.chat.template_check import check_chat
from perdure.memory.errors import InputError

SETTINGS = ChatSettings(date=datetime(2026, 11, 30, 13, 20, tzinfo=UTC))
CONVERSATIONS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
ODD = st.sampled_from(
    [
        *(
            "",
            " ",
            "\n",
            "\n\n board \n",
            "  two  spaces ",
            "\ttab",
            "naïve Ω 漢字 🙂",
            "a\x00b\x1b[31m",
            "'</', '>' and '<|'",
            "{{ m }}{% x %}",
        ),
        *("7", "yes", "Which number? 1 2\n", "\U00100000 private \U0010fffd", "re\u0301sume\u0301", "\u2028\u00a0\ufeff", '\\n "q"', "▁a▁"),
    ]
)
TEXT = st.one_of(ODD, st.text(max_size=20), st.tuples(ODD, st.text(max_size=8), ODD).map("".join))


EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)
SHORT = {"smollm2", "qwen3", "gemma-3", "mistral", "gpt-oss"}
EACH_AT_RANDOM = pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.long]) for name in FAMILIES]
)
"""One of each kind of tokenizer, and the two templates with most to them; `make test-long` takes the others."""


@cache
def chat_of(family: str) -> tuple[TemplateChat, PreTrainedTokenizerFast]:
    tokenizer = family_tokenizer(family)
    return TemplateChat(tokenizer, frozenset({tokenizer.eos_token_id}), SETTINGS), tokenizer


def words(chat: TemplateChat) -> list[str]:
    return sorted(chat.encoder.controls)


def conversations(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[Message]]:
    """A system message or none, then user and assistant in turn, up to a user's; an assistant may have thought apart from its text."""

    def put_together(system: str | None, turns: list[tuple[str, str, str | None]], last: str) -> list[Message]:
        said = [Message(role="system", text=system)] if system is not None else []
        for asked, answer, thought in turns:
            said += [Message(role="user", text=asked), Message(role="assistant", text=answer, thought=thought)]
        return [*said, Message(role="user", text=last)]

    turn = st.tuples(text, text, st.one_of(st.none(), text))
    return st.builds(put_together, st.one_of(st.none(), text), st.lists(turn, max_size=3), text)


def holds_control(chat: TemplateChat, message: Message) -> bool:
    texts = [message.text, message.thought or ""]
    return any(word in text for word in chat.encoder.controls for text in texts)


@EACH_FAMILY
def test_a_family_passes_the_check_at_the_start(family: str) -> None:
    check_chat(*chat_of(family))


@EACH_AT_RANDOM
@CONVERSATIONS
@given(data=st.data())
def test_random_conversations_have_the_templates_tokens(data: st.DataObject, family: str) -> None:
    chat, tokenizer = chat_of(family)
    messages = data.draw(conversations(TEXT))
    assume(not any(holds_control(chat, message) for message in messages))
    assert list(chat.prompt(messages)) == of_template(chat, tokenizer, messages)


@EACH_AT_RANDOM
@CONVERSATIONS
@given(data=st.data())
def test_control_words_leave_the_scaffolding_as_it_is(data: st.DataObject, family: str) -> None:
    chat, _ = chat_of(family)
    dirty = st.builds("{}{}{}".format, ODD, st.sampled_from(words(chat)), ODD)
    messages = data.draw(conversations(st.one_of(TEXT, dirty)))
    assume(not any(message.role == "assistant" and tagged_thought(message.text, chat.shape) for message in messages))
    broken = [Message(role=m.role, text=calm(chat, m.text), thought=None if m.thought is None else calm(chat, m.thought)) for m in messages]
    prompt = chat.prompt(messages)
    assert scaffolding(chat, prompt) == scaffolding(chat, chat.prompt(broken))


def calm(chat: TemplateChat, text: str) -> str:
    """The text without control words; it stays empty, or not, as it was."""
    for word in words(chat):
        text = text.replace(word, "control")
    return text


@EACH_AT_RANDOM
@CONVERSATIONS
@given(data=st.data())
def test_what_was_sampled_is_never_rendered_again(data: st.DataObject, family: str) -> None:
    chat, tokenizer = chat_of(family)
    sampled = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=8).map(tuple))
    told = data.draw(st.one_of(TEXT, st.sampled_from(words(chat))))
    prompt = chat.prompt([Message(role="user", text="Which?")])
    followed = chat.follow(prompt, sampled, told)
    assert followed[: len(prompt) + len(sampled)] == prompt + sampled
    calm_piece = chat.follow(prompt, sampled, "control" if told.strip() else told)[len(prompt) + len(sampled) :]
    assert scaffolding(chat, followed[len(prompt) + len(sampled) :]) == scaffolding(chat, calm_piece)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name in {"smollm3", "qwen3", "qwen3.5"}])
@CONVERSATIONS
@given(data=st.data())
def test_thoughts_between_the_models_own_tags_are_what_the_template_makes_of_them(data: st.DataObject, family: str) -> None:
    chat, tokenizer = chat_of(family)
    tagged = st.builds(
        "{}{}</think>{}{}".format, st.sampled_from(["<think>", "\n<think>\n", ""]), TEXT, st.sampled_from(["\n\n", "", "\n"]), TEXT
    )
    turns = data.draw(st.lists(st.tuples(TEXT, st.one_of(tagged, TEXT)), min_size=1, max_size=3))
    roles = ("user", "assistant")
    messages = [Message(role=role, text=text) for turn in turns for role, text in zip(roles, turn, strict=True)]  # type: ignore[arg-type]
    last = Message(role="user", text=data.draw(TEXT))
    words_said = [message.text.replace("<think>", "", 1).replace("</think>", "", 1) for message in messages]
    assume(not any(word in text for word in chat.encoder.controls for text in [*words_said, last.text]))
    assert list(chat.prompt([*messages, last])) == of_template(chat, tokenizer, [*messages, last])
    prompt, answer = chat.exchange(messages)
    whole = tokenizer.decode(of_template(chat, tokenizer, messages, ask=False))
    if whole.startswith(tokenizer.decode(list(prompt))):  # SmolLM3 opens no thought, and drops them all
        assert whole.startswith(tokenizer.decode([*prompt, *answer]))
    assert answer[-1] == chat.end


TOOL_FAMILIES = ["qwen2.5", "qwen3", "qwen3.5", "llama-3.2", "gpt-oss"]
TOOLS = [{"type": "function", "function": {"name": "move", "description": "Moves.", "parameters": {"type": "object", "properties": {}}}}]


@pytest.mark.parametrize("family", TOOL_FAMILIES)
@settings(max_examples=50, deadline=None)
@given(value=TEXT, result=TEXT)
def test_calls_of_tools_have_the_templates_tokens(family: str, value: str, result: str) -> None:
    chat, tokenizer = chat_of(family)
    messages = [
        Message(role="user", text="Go."),
        Message(role="assistant", text="", calls=(ToolCall(name="move", arguments={"to": value}, id="c1"),)),
        Message(role="tool", text=result, call_id="c1", name="move"),
    ]
    assume(not any(word in text for word in chat.encoder.controls for text in (value, result)))
    assert list(chat.prompt(messages)) == of_template(chat, tokenizer, messages)
    prompt, answer = chat.exchange(messages[:2], TOOLS)
    assert prompt == chat.prompt(messages[:1], TOOLS)
    assert answer[-1] in chat.stop_ids or answer[-1] in chat.encoder.control_ids
    attacked = [messages[0], messages[1], Message(role="tool", text=f"{result}{words(chat)[0]}", call_id="c1", name="move")]
    assert scaffolding(chat, chat.prompt(attacked)) == scaffolding(chat, chat.prompt(messages))


def test_a_template_that_leaves_out_calls_refuses_them() -> None:
    chat, _ = chat_of("smollm2")
    with pytest.raises(InputError, match="leaves out calls of tools, such as 'move'"):
        chat.prompt([Message(role="user", text="Go."), Message(role="assistant", text="", calls=(ToolCall(name="move", arguments={}),))])
