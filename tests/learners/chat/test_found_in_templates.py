"""What went wrong with templates and tokenizers in use, each with a test: thoughts, trimming, dates, tags, spaces, ends of turns."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.learners.chat.families import MISTRAL, Kind, tokenizer_for
from tests.learners.chat.said import of_template
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from perdure.envs.policy import Message
from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.chat.template_chat import TemplateChat
from perdure.learners.chat.template_check import check_chat, differences
from perdure.memory.errors import InputError

EACH = "{% for m in messages %}"
TURN = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = EACH + TURN + ASK
OPENS_THOUGHT = EACH + TURN + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
THINKS = (
    EACH + "{% set c = m['content'].split('</think>')[-1].lstrip('\n') if m['role'] == 'assistant' and not loop.last else m['content'] %}"
    "<|im_start|>{{ m['role'] }}\n{{ c }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
TRIMS = EACH + "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}" + ASK
DATED = "<|im_start|>system\nIt is {{ strftime_now('%d %b %Y %H:%M:%S.%f') }}<|im_end|>\n" + CHATML
NEXT_ROLE_ENDS = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CLOSES_TWICE = (
    "{% for m in messages %}<|turn|><|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}<|start|>{% endif %}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|stop|>{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|><|assistant|><|start|>{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
QUESTION = Message(role="user", text="Which number? 3 7")
TALK = [QUESTION, Message(role="assistant", text="7"), Message(role="user", text="and 1 2?")]
SAID = "<think>\n3 is smaller\n</think>\n\n7"


def chat_of(tokenizer: PreTrainedTokenizerFast, **chosen: object) -> TemplateChat:
    return TemplateChat(tokenizer, frozenset({tokenizer.eos_token_id}), replace(ChatSettings(), **chosen))  # type: ignore[arg-type]


def ids_of(chat: TemplateChat, text: str) -> tuple[int, ...]:
    """A text as a policy samples it: tags are tokens."""
    return chat.encoder.encode(text, start="joined")


def test_a_thought_that_the_generation_prompt_opens_is_played_and_learned() -> None:
    tokenizer = tokenizer_for(OPENS_THOUGHT)
    chat = chat_of(tokenizer)
    check_chat(chat, tokenizer)
    prompt = chat.prompt([QUESTION])
    assert tokenizer.decode(list(prompt)).endswith("<|im_start|>assistant\n<think>\n")
    sampled = (*ids_of(chat, "3 is smaller\n</think>\n\n7"), chat.end)
    assert chat.text(sampled) == "7"
    followed = chat.follow(prompt, sampled, "and 1 2?")
    assert tokenizer.decode(list(followed[len(prompt) :])) == (
        "3 is smaller\n</think>\n\n7<|im_end|>\n<|im_start|>user\nand 1 2?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert tokenizer.decode(list(chat.answer("7"))) == "\n</think>\n\n7<|im_end|>"
    assert chat.text(chat.answer("7")) == "7"
    assert any("</think>" in told for told in differences(chat))


def test_an_answer_that_ends_within_its_thought_has_no_text() -> None:
    chat = chat_of(tokenizer_for(OPENS_THOUGHT))
    assert chat.text(ids_of(chat, "3 is smaller, but")) == ""
    asked = chat_of(tokenizer_for(THINKS))
    assert asked.text(ids_of(asked, "<think>\n3 is smaller, but")) == ""
    assert asked.text(ids_of(asked, "7")) == "7"


def test_thoughts_can_be_shown() -> None:
    tokenizer = tokenizer_for(THINKS)
    chat = chat_of(tokenizer, show_special=("</think>",), thoughts="drop")
    assert chat.text((*ids_of(chat, SAID), chat.end)) == SAID
    assert chat.text(ids_of(chat, "<think>\n3 is smaller, but")) == "<think>\n3 is smaller, but"
    talk = [QUESTION, Message(role="assistant", text=SAID), Message(role="user", text="and 1 2?")]
    assert list(chat.prompt(talk)) == of_template(chat, tokenizer, talk)
    assert not any("what follows" in told for told in differences(chat))


def test_thoughts_of_earlier_answers_are_kept_or_dropped_by_choice() -> None:
    tokenizer = tokenizer_for(THINKS)
    keep, drop = chat_of(tokenizer), chat_of(tokenizer, thoughts="drop")
    assert keep.shape.drops_thoughts
    assert any("'keep' leaves them" in told for told in differences(keep))
    assert any("a sequence of its own" in told for told in differences(drop))
    talk = [QUESTION, Message(role="assistant", text=SAID), Message(role="user", text="and 1 2?")]
    assert list(drop.prompt(talk)) == of_template(drop, tokenizer, talk) == of_template(drop, tokenizer, TALK)
    prompt = keep.prompt([QUESTION])
    sampled = (*ids_of(keep, SAID), keep.end)
    assert keep.text(sampled) == "7"
    assert SAID in tokenizer.decode(list(keep.follow(prompt, sampled, "and 1 2?")))


def test_an_option_of_the_template_is_used() -> None:
    tokenizer = tokenizer_for(THINKS)
    chat = chat_of(tokenizer, template_options={"enable_thinking": False})
    check_chat(chat, tokenizer)
    assert tokenizer.decode(list(chat.prompt(TALK))).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(list(chat.follow(chat.prompt([QUESTION]), (9,), "x"))).endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("options", "match"), [({"enable_thinkin": False}, "did you mean enable_thinking"), ({"messages": []}, "by Perdure itself")]
)
def test_an_option_that_the_template_does_not_have_is_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        chat_of(tokenizer_for(THINKS), template_options=options)


def test_a_demonstration_may_hold_a_thought_between_the_models_own_tags() -> None:
    chat = chat_of(tokenizer_for(THINKS))
    answer = chat.answer(SAID)
    assert answer == (*ids_of(chat, SAID), chat.end)
    assert chat.text(answer) == "7"
    forged = chat.answer("<think>a</think>b</think><think>c")
    assert not {chat.encoder.controls["<think>"], chat.encoder.controls["</think>"]} & set(forged)


def test_a_template_that_trims_is_followed() -> None:
    tokenizer = tokenizer_for(TRIMS)
    chat = chat_of(tokenizer)
    board = "\n\n board \n"
    told = [*TALK[:2], Message(role="user", text=board)]
    assert list(chat.prompt(told)) == of_template(chat, tokenizer, told)
    prompt = chat.prompt(TALK[:1])
    assert list(chat.follow(prompt, chat.answer("7"), board)) == of_template(chat, tokenizer, told)


def test_a_date_in_the_prompt_is_that_of_the_home() -> None:
    tokenizer = tokenizer_for(DATED)
    began = datetime(2026, 11, 29, 23, 59, 59, 7, tzinfo=UTC)
    first, second = (chat_of(tokenizer, date=began) for _ in range(2))
    assert first.prompt([QUESTION]) == second.prompt([QUESTION])
    assert "It is 29 Nov 2026 23:59:59.000007" in tokenizer.decode(list(first.prompt([QUESTION])))
    assert any("2026-11-29 23:59 (UTC)" in told for told in differences(first))
    assert not any("date" in told for told in differences(chat_of(tokenizer_for(CHATML))))


@pytest.mark.parametrize("word", ["<tool_call>", "</think>", "<|im_start|>", "<|im_end|>"])
def test_an_added_token_in_a_message_stays_text(word: str) -> None:
    tokenizer = tokenizer_for(CHATML)
    chat = chat_of(tokenizer)
    told = f"x {word} 718"
    for ids in (chat.prompt([Message(role="user", text=told)]), chat.follow((1,), (9,), told)):
        assert ids.count(chat.encoder.controls[word]) == chat.follow((1,), (9,), "x").count(chat.encoder.controls[word]) or (
            word == "<|im_end|>" and ids.count(chat.end) == 1
        )
        assert told in tokenizer.decode(list(ids))


def test_tags_that_are_special_can_be_shown() -> None:
    tokenizer = tokenizer_for(CHATML + "{# <answer> </answer> #}")
    hidden, shown = chat_of(tokenizer), chat_of(tokenizer, show_special=("<answer>", "</answer>"))
    tags = [tokenizer.convert_tokens_to_ids(tag) for tag in ("<answer>", "</answer>")]
    sampled = (tags[0], *ids_of(hidden, "7"), tags[1], hidden.end)
    assert hidden.text(sampled) == "7"
    assert shown.text(sampled) == "<answer>7</answer>"
    assert shown.answer("<answer>7</answer>") == sampled
    assert not set(tags) & set(hidden.answer("<answer>7</answer>"))
    assert not set(tags) & set(shown.prompt([Message(role="user", text="<answer>7</answer>")]))
    assert any("<answer>" in told for told in differences(hidden))
    assert not any("<answer>" in told for told in differences(shown))
    with pytest.raises(InputError, match="<reply>"):
        chat_of(tokenizer, show_special=("<reply>",))


KINDS: list[Kind] = ["bytes", "bytes with space", "split bytes", "metaspace always", "metaspace first", "prepend", "unigram"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", [ZEPHYR, CHATML, MISTRAL])
def test_spaces_before_texts_are_where_the_whole_text_has_them(kind: Kind, template: str) -> None:
    tokenizer = tokenizer_for(template, kind=kind, end="</s>" if template != CHATML else "<|im_end|>", begin="<s>")
    chat = chat_of(tokenizer)
    check_chat(chat, tokenizer)
    for messages in (TALK[:1], TALK, [*TALK[:2], Message(role="user", text=" \n ▁x ")]):
        assert list(chat.prompt(messages)) == of_template(chat, tokenizer, messages)
    for text in ("yes", " yes", "Which number?"):
        assert chat.text(chat.answer(text)).strip() == text.strip()
        whole = of_template(chat, tokenizer, [QUESTION, Message(role="assistant", text=text)], ask=False)
        given = [*chat.prompt([QUESTION]), *chat.answer(text)]
        if tokenizer.decode(given) == tokenizer.decode(whole[: len(given)]):
            assert whole[: len(given)] == given or template == ZEPHYR  # a line break may merge with a space behind it


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_continues_the_line_of_its_prompt_without_a_space(kind: Kind) -> None:
    tokenizer = tokenizer_for(ZEPHYR, kind=kind, end="</s>", begin="<s>")
    chat = chat_of(tokenizer)
    assert chat.text(chat.answer("yes")) == "yes"
    assert tokenizer.convert_ids_to_tokens(chat.answer("yes")[0])[0] not in "▁Ġ"
    whole = [*chat.prompt([QUESTION]), *chat.answer("yes")]
    assert tokenizer.decode(whole).endswith("\nyes</s>")


@pytest.mark.parametrize("end", ["<|endoftext|>", "<|im_end|>"])
def test_the_templates_own_end_of_turn_stops_an_answer(end: str) -> None:
    tokenizer = tokenizer_for(CHATML, end=end)
    chat = chat_of(tokenizer)
    own = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert chat.stop_ids == {own, tokenizer.eos_token_id}
    assert chat.answer("7")[-1] == own
    prompt = chat.prompt([QUESTION])
    piece = chat.follow(prompt, chat.answer("7"), "x")[len(prompt) + len(chat.answer("7")) :]
    assert tokenizer.decode(list(piece)) == "\n<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"


def test_an_answer_that_the_next_role_ends() -> None:
    tokenizer = tokenizer_for(NEXT_ROLE_ENDS, end="<|endoftext|>")
    chat = chat_of(tokenizer)
    user, eos = tokenizer.convert_tokens_to_ids("<|user|>"), tokenizer.eos_token_id
    assert chat.stop_ids == {user, eos}
    prompt = chat.prompt([QUESTION])
    ended, by_eos, cut = (chat.follow(prompt, (9, *last), "x")[len(prompt) :] for last in ((user,), (eos,), ()))
    assert ended[:2] == (9, user)
    assert ended.count(user) == 1
    assert by_eos[:3] == (9, eos, user)
    assert cut == ended


def test_a_turn_that_two_tokens_close() -> None:
    tokenizer = tokenizer_for(CLOSES_TWICE)
    chat = chat_of(tokenizer)
    stop, end = tokenizer.convert_tokens_to_ids("<|stop|>"), tokenizer.eos_token_id
    assert chat.answer("7")[-2:] == (stop, end)
    assert chat.stop_ids == {end}
    prompt = chat.prompt([QUESTION])
    whole = chat.follow(prompt, (9, stop, end), "x")
    assert whole == chat.follow(prompt, (9,), "x") == chat.follow(prompt, (9, stop), "x")
    assert whole.count(stop) == 1


@pytest.mark.parametrize("broken", ["{{ raise_exception('no') }}", "{{ messages[0].text.upper() }}", "{% for m in %}"])
def test_a_template_that_fails_is_refused_in_one_line(broken: str) -> None:
    with pytest.raises(InputError, match="chat template") as failure:
        chat_of(tokenizer_for(broken))
    assert "\n" not in str(failure.value)


def test_a_template_that_is_not_there_is_refused() -> None:
    tokenizer = tokenizer_for(CHATML)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        chat_of(tokenizer)


def test_of_several_templates_the_default_one_is_used_and_that_for_tools_with_tools() -> None:
    tokenizer = tokenizer_for(CHATML)
    tokenizer.chat_template = {"default": CHATML, "tool_use": "<|im_start|>tools: {{ tools | length }}<|im_end|>\n" + CHATML}
    chat = chat_of(tokenizer)
    plain, with_tools = chat.prompt([QUESTION]), chat.prompt([QUESTION], [{"type": "function", "function": {"name": "look"}}])
    assert tokenizer.decode(list(plain)).startswith("<|im_start|>user")
    assert tokenizer.decode(list(with_tools)).startswith("<|im_start|>tools: 1<|im_end|>\n<|im_start|>user")
    tokenizer.chat_template = {"rag": CHATML, "tool_use": CHATML}
    with pytest.raises(InputError, match="none named default"):
        chat_of(tokenizer)


def test_a_tokenizer_whose_tokens_the_chat_cannot_give_is_refused_in_one_line() -> None:
    tokenizer = tokenizer_for(ZEPHYR, kind="prepend", end="</s>")
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in document["added_tokens"]:
        token["normalized"] = True  # a space is put before a control word itself, so that it is found at the beginning only
    broken = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)), eos_token="</s>", chat_template=tokenizer.chat_template
    )
    chat = chat_of(broken)
    with pytest.raises(InputError, match="other tokens than the model's template gives, from token 1 on") as failure:
        check_chat(chat, broken)
    assert "\n" not in str(failure.value)


def test_a_text_cannot_complete_a_control_word_that_the_template_begins() -> None:
    template = EACH + "<|im_start|>{{ m['role'] }}\n<{{ m['content'] | trim }}|>\n<|im_end|>\n{% endfor %}" + ASK
    tokenizer = tokenizer_for(template)
    chat = chat_of(tokenizer)
    for told in ("|im_end|>", " |im_start|> x", "x <|im_end", "|im_end"):
        ids = chat.prompt([Message(role="user", text=told)])
        assert ids.count(tokenizer.eos_token_id) == 1
        assert ids.count(chat.encoder.controls["<|im_start|>"]) == 2
        assert f"user\n<{told.strip()}|>\n<|im_end|>" in tokenizer.decode(list(ids))


def test_private_characters_cannot_forge_control_tokens() -> None:
    tokenizer = tokenizer_for(CHATML)
    chat = chat_of(tokenizer)
    for told in ("<\U00100000|im_end|>", "\U00100000\U00100001\U00100002<|im_end|>", "|im_end|>", "<|im_end|", ">", "<"):
        ids = chat.prompt([Message(role="user", text=told)])
        assert ids.count(chat.end) == 1
        assert f"user\n{told}<|im_end|>" in tokenizer.decode(list(ids))
