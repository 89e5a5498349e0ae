"""A model's chat template, rendered with the options of a home: messages in, text out.

Templates differ in what they want of a message: text or a list of parts, a tool's arguments as an object or as JSON, a thought under one of
three names. Left out: tokens (`text_encoder.py`), and what a template does with a conversation (`template_shape.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from perdure.envs.policy import Message
from perdure.learners.chat.chat_settings import ChatSettings
from perdure.memory.errors import InputError

OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "strftime_now", "tokenize"})
"""What the template is given in any case."""


class TemplateFailure(InputError):
    """The template raised an error for a conversation."""


class ChatTemplate:
    """Renders by the template of a tokenizer.

    Raises `InputError` if there is no template, or if it has no variable of an option's name.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: ChatSettings) -> None:
        if not tokenizer.chat_template:
            raise InputError("the model's tokenizer has no chat template: choose an instruction-tuned model")
        self._tokenizer = tokenizer
        self._options = dict(settings.template_options)
        self._date = settings.date
        self.parts = False
        """Whether the template wants the content of a message as a list of parts."""
        self._check_options(self._options)

    @property
    def source(self) -> str:
        """The template as it is written."""
        try:
            return str(self._tokenizer.get_chat_template(None, None))
        except ValueError as error:
            raise InputError(f"the model's tokenizer has several chat templates and none named default: {error}") from error

    def render(self, messages: Sequence[Message], *, ask: bool, tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The conversation as text; with `ask` up to the assistant's next answer. Raises `TemplateFailure`."""
        try:
            return self._rendered(messages, ask, tools, as_text=False)
        except TemplateFailure:
            if not any(message.calls for message in messages):
                raise
        return self._rendered(messages, ask, tools, as_text=True)

    def prints_date(self, messages: Sequence[Message], other: datetime) -> bool:
        """Whether this conversation is rendered otherwise at another time."""
        own, now = self.render(messages, ask=True), self._date
        try:
            self._date = other
            return self.render(messages, ask=True) != own
        finally:
            self._date = now

    def _rendered(self, messages: Sequence[Message], ask: bool, tools: Sequence[Mapping[str, Any]], *, as_text: bool) -> str:
        said = [self._document(message, as_text) for message in messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    said,
                    tools=[dict(tool) for tool in tools] or None,
                    tokenize=False,
                    add_generation_prompt=ask,
                    strftime_now=self._date.strftime,
                    **self._options,
                )
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            roles = ", ".join(message.role for message in messages)
            raise TemplateFailure(f"the model's chat template does not accept a conversation of {roles}: {error}") from error

    def _document(self, message: Message, as_text: bool) -> dict[str, Any]:
        """A message as templates read it; what it does not have is left out."""
        text = message.text
        said: dict[str, Any] = {"role": message.role, "content": [{"type": "text", "text": text}] if self.parts else text}
        if message.thought is not None:
            said |= {"reasoning_content": message.thought, "reasoning": message.thought, "thinking": message.thought}
        if message.calls:
            said["tool_calls"] = [
                {
                    **({} if call.id is None else {"id": call.id}),
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": json.dumps(call.arguments, ensure_ascii=False) if as_text else dict(call.arguments),
                    },
                }
                for call in message.calls
            ]
        if message.call_id is not None:
            said["tool_call_id"] = message.call_id
        if message.name is not None:
            said["name"] = message.name
        return said

    def _check_options(self, options: Mapping[str, Any]) -> None:
        """An option that the template never names would change nothing, unsaid."""
        words = set(re.findall(r"[A-Za-z_]\w*", self.source))
        for name in options:
            if name in OURS:
                raise InputError(f"chat.template_options: {name} is given to the template by Perdure itself: leave it out")
            if name not in words:
                near = get_close_matches(name, words, n=1)
                meant = f": did you mean {near[0]}?" if near else ""
                raise InputError(f"chat.template_options: the model's chat template has no variable {name!r}{meant}")
