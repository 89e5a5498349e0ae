"""A model's chat compared with its template on fixed conversations, when an engine opens and in `perdure doctor`.

Conversations with a system role and without, of several turns, with text that templates trim, with thoughts, and with control words. What
differs from the template by choice is named (`differences`); any other difference is refused, with both texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from perdure.envs.policy import Ids, Message
from perdure.learners.chat.template_chat import TemplateChat
from perdure.memory.errors import InputError

SHOWN_TOKENS = 12
"""Of each side of a difference."""
_SYSTEM = Message(role="system", text="Answer with one number.")
_TURNS = (
    Message(role="user", text="Which number is the largest? 3 7 5"),
    Message(role="assistant", text="7"),
    Message(role="user", text="\n\n board \n 1 | 2\n"),
    Message(role="assistant", text=" a1"),
    Message(role="user", text=" and now?"),
)


def check_chat(chat: TemplateChat, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `InputError` if a conversation has other tokens than the template gives."""
    for messages in _conversations(chat):
        _check_equal(tokenizer, chat.prompt(messages), _by_template(chat, tokenizer, messages))
    for word in chat.encoder.controls:
        if word in chat.settings.show_special:
            continue
        calm, told = (chat.prompt([Message(role="user", text=f"say {text} again")]) for text in ("x", word))
        if _scaffolding(chat, calm) != _scaffolding(chat, told):
            raise InputError(f"the model's tokenizer makes a control token of the text {word!r}: it cannot be kept as text")
        break  # all words go the same way


def differences(chat: TemplateChat) -> list[str]:
    """What goes into the model otherwise than the template says, by choice, and what a person should know of it. Each is a sentence."""
    shape, settings = chat.shape, chat.settings
    told = []
    if not shape.has_system:
        told.append("the template has no system role: instructions precede the first message")
    if shape.drops_thoughts and settings.thoughts == "keep":
        told.append("the template drops thoughts of earlier answers, but thoughts = 'keep' leaves them as they were sampled")
    if settings.thoughts == "drop":
        told.append("thoughts = 'drop': each turn is a sequence of its own, made anew from the texts")
    if (mark := (shape.header or shape.closes).strip()) and mark not in settings.show_special:
        told.append(f"the text of an answer is what follows {mark}")
    if tags := [word for word in _special_tags(chat) if word not in settings.show_special]:
        told.append(f"environments do not see {', '.join(tags[:4])}, which the tokenizer marks special: chat.show_special shows them")
    if chat.template.prints_date(_TURNS[:1], settings.date + timedelta(days=400, hours=7, minutes=31, seconds=17)):
        told.append(f"the template prints the date: it stays {settings.date:%Y-%m-%d %H:%M} (UTC), when the home began")
    return told


def _conversations(chat: TemplateChat) -> Iterator[list[Message]]:
    for n in (1, 3, 5):
        yield list(_TURNS[:n])
        if chat.shape.has_system:
            yield [_SYSTEM, *_TURNS[:n]]
    opens, closes = chat.shape.opens, chat.shape.closes
    if opens:
        yield [_TURNS[0], replace(_TURNS[1], thought="3 and 5 are smaller"), _TURNS[2]]
        if not chat.shape.header:
            yield [_TURNS[0], replace(_TURNS[1], text=f"{opens.lstrip()}3 and 5 are smaller{closes}7"), _TURNS[2]]


def _by_template(chat: TemplateChat, tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> Ids:
    rendered = chat.template.render(messages, ask=True)
    return tuple(tokenizer(rendered, add_special_tokens=False)["input_ids"])


def _check_equal(tokenizer: PreTrainedTokenizerBase, ours: Ids, theirs: Ids) -> None:
    if ours == theirs:
        return
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))))
    begin = max(0, same - SHOWN_TOKENS // 2)
    shown = [tokenizer.convert_ids_to_tokens(list(ids[begin : begin + SHOWN_TOKENS])) for ids in (ours, theirs)]
    told = (
        f"the chat has other tokens than the model's template gives, from token {same} on: {' '.join(shown[0])} instead of "
        f"{' '.join(shown[1])}; the files of the tokenizer may disagree with each other"
    )
    raise InputError(told.replace("\n", "\\n"))


def _scaffolding(chat: TemplateChat, ids: Ids) -> list[int]:
    return [number for number in ids if number in chat.encoder.control_ids]


def _special_tags(chat: TemplateChat) -> list[str]:
    """Special tokens that look like tags around a part of an answer, such as '<answer>' and '</answer>'."""
    special = {word for word, number in chat.encoder.controls.items() if number in chat.encoder.special_ids}
    names = sorted(word[1:-1] for word in special if re.fullmatch(r"<[A-Za-z_]{3,}>", word) and f"</{word[1:]}" in special)
    return [f"<{slash}{name}>" for name in names for slash in ("", "/")]
