"""Conversations as token ids, by the model's own chat template.

The template is rendered once around sentinels to find the text that it puts between messages. That text is encoded with special tokens,
the messages without any, so that '<|im_start|>' inside an observation stays text. A conversation only grows: the next piece is appended
to the sampled tokens, and nothing is tokenised twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from perdure.envs.policy import Ids, Message
from perdure.memory.errors import InputError
from perdure.memory.json_value import JsonObject

_SENTINELS = ("ALPHA0SENTINEL", "BRAVO1SENTINEL", "CHARLIE2SENTINEL", "DELTA3SENTINEL")


class TemplateChat:
    """`Chat` by a tokenizer with a chat template.

    Raises `InputError` if the tokenizer has no template or no end-of-turn token, or if its template rewrites earlier turns: the model
    would then be trained on other tokens than it sampled.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int]) -> None:
        if not tokenizer.chat_template:
            raise InputError("the model's tokenizer has no chat template: choose an instruction-tuned model")
        if not stop_ids:
            raise InputError("the model has no end-of-turn token: set eos_token_id in its generation_config.json")
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._template_ids = lru_cache(maxsize=256)(self._encode_template)
        self._text_ids = lru_cache(maxsize=4096)(self._encode_text)
        self._has_system = self._keeps_system()
        self._between = self._follow_pieces()

    def prompt(self, messages: Sequence[Message]) -> Ids:
        """The ids of a conversation up to the assistant's answer; without a system role, the instructions precede the first message."""
        if not self._has_system and messages and messages[0].role == "system":
            first = Message(role=messages[1].role, text=f"{messages[0].text}\n\n{messages[1].text}")
            messages = [first, *messages[2:]]
        marks = [f"{_SENTINELS[0]}{index}END" for index in range(len(messages))]
        rest = self._render([Message(role=m.role, text=mark) for m, mark in zip(messages, marks, strict=True)], answer=True)
        ids: list[int] = []
        for mark, message in zip(marks, messages, strict=True):
            piece, found, rest = rest.partition(mark)
            if not found:
                raise InputError("the model's chat template drops or reorders messages: use one that only appends")
            ids += self._template_ids(piece)
            ids += self._text_ids(message.text)
        ids += self._template_ids(rest)
        return tuple(ids)

    def follow(self, prompt_ids: Ids, action_ids: Ids, observation: str) -> Ids:
        """The next turn's prompt. It starts with `prompt_ids + action_ids`; if the answer was cut off, its end-of-turn token is added."""
        before, after = self._between
        piece = self._template_ids(before)
        if action_ids and action_ids[-1] in self._stop_ids and piece and piece[0] in self._stop_ids:
            piece = piece[1:]
        return (*prompt_ids, *action_ids, *piece, *self._text_ids(observation), *self._template_ids(after))

    def text(self, action_ids: Ids) -> str:
        """The text of an answer, without special tokens."""
        return answer_text(self._tokenizer, action_ids)

    def answer(self, text: str) -> Ids:
        """The ids of a given answer, with the end-of-turn token that the template puts after it."""
        before = self._template_ids(self._between[0])
        return (*self._text_ids(text), before[0] if before and before[0] in self._stop_ids else min(self._stop_ids))

    def exchange(self, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> tuple[Ids, Ids]:
        """Prompt and answer of a conversation whose last message is the assistant's (`Chat.exchange`)."""
        if not tools and not any(message.calls or message.thought or message.role == "tool" for message in messages):
            return self.prompt(messages[:-1]), self.answer(messages[-1].text)
        said = [_document(message) for message in messages]
        try:
            asked, whole = (
                str(
                    self._tokenizer.apply_chat_template(
                        some, tools=[dict(tool) for tool in tools] or None, tokenize=False, add_generation_prompt=some is not said
                    )
                )
                for some in (said[:-1], said)
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message.role for message in messages)
            raise InputError(f"the model's chat template does not accept a conversation of {roles}: {error}") from error
        if not whole.startswith(asked):
            raise InputError("the model's chat template begins an answer otherwise than its generation prompt does")
        ids = self._template_ids(whole[len(asked) :])
        ends = [n for n, token in enumerate(ids) if token in self._stop_ids]
        return self._template_ids(asked), ids[: ends[-1] + 1] if ends else (*ids, min(self._stop_ids))

    def _render(self, messages: Sequence[Message], answer: bool) -> str:
        turns = [{"role": m.role, "content": m.text} for m in messages]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer))

    def _keeps_system(self) -> bool:
        """Whether the template puts a system message first: some reject it, some drop it, some move it to the last message."""
        roles: tuple[Literal["system", "user", "assistant"], ...] = ("system", "user", "assistant", "user")
        messages = [Message(role=role, text=text) for role, text in zip(roles, _SENTINELS, strict=True)]
        try:
            whole = self._render(messages, answer=True)
        except TemplateError:
            return False
        places = [whole.find(sentinel) for sentinel in _SENTINELS]
        return min(places) >= 0 and places == sorted(places)

    def _follow_pieces(self) -> tuple[str, str]:
        """The text between an answer and the next observation, and between that observation and the next answer."""
        a, b, c, _ = _SENTINELS
        first = [Message(role="user", text=a)]
        both = [*first, Message(role="assistant", text=b), Message(role="user", text=c)]
        try:
            opened, whole = self._render(first, answer=True), self._render(both, answer=True)
        except TemplateError as error:
            raise InputError(f"the model's chat template does not accept user and assistant turns: {error}") from error
        if not whole.startswith(opened + b):
            raise InputError(
                "the model's chat template does not keep its prefix: it changes earlier turns when later ones are added, so the model "
                "would be trained on other tokens than it sampled; use a template that only appends"
            )
        before, _, after = whole[len(opened + b) :].partition(c)
        return before, after

    def _encode_template(self, text: str) -> Ids:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _encode_text(self, text: str) -> Ids:
        clean = text.encode("utf-8", errors="replace").decode("utf-8")  # lone surrogates cannot be encoded
        return tuple(self._tokenizer.encode(clean, add_special_tokens=False, split_special_tokens=True))


def _document(message: Message) -> dict[str, Any]:
    """A message as templates read it; what it does not have is left out."""
    said: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.thought is not None:
        said["reasoning_content"] = message.thought
    if message.calls:
        said["tool_calls"] = [
            {
                **({} if call.id is None else {"id": call.id}),
                "type": "function",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in message.calls
        ]
    if message.call_id is not None:
        said["tool_call_id"] = message.call_id
    return said if message.name is None else {**said, "name": message.name}


def answer_text(tokenizer: PreTrainedTokenizerBase, action_ids: Ids) -> str:
    """The text of an answer, without special tokens. It is stored beside its tokens and never tokenised again."""
    return str(tokenizer.decode(list(action_ids), skip_special_tokens=True))
