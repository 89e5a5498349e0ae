"""A conversation whose control words are broken before the template sees it, so that what it renders of them is its own.

An assistant's text may hold one thought between the model's own tags, and words of `show_special`: those a policy samples as tokens. In
every other text, and in a thought, a name or an argument, control words are text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perdure.envs.policy import Message
from perdure.learners.chat.chat_template import ChatTemplate
from perdure.learners.chat.template_shape import TemplateShape
from perdure.learners.chat.text_encoder import TextEncoder, clean
from perdure.memory.errors import InputError
from perdure.memory.json_value import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedThought:
    """An assistant's text that holds a thought."""

    opens: str
    """Empty if the generation prompt has opened it."""
    thought: str
    closes: str
    rest: str


class GuardedConversation:
    """`messages` can be rendered, and what is rendered can be encoded with `breaker`."""

    def __init__(
        self,
        messages: Sequence[Message],
        tools: Sequence[JsonObject] = (),
        *,
        template: ChatTemplate,
        encoder: TextEncoder,
        shape: TemplateShape,
        shown: frozenset[str],
    ) -> None:
        self._template, self._encoder, self._shape, self._shown = template, encoder, shape, shown
        said = messages if shape.has_system else _with_instructions(messages)
        self._names = [clean(call.name) for message in said for call in message.calls]
        self.breaker = encoder.breaker_for(_texts([*said], tools))
        self.messages = [self._guarded(message) for message in said]
        self._tools = [self._guarded_json(tool) for tool in tools]

    def rendered(self, messages: Sequence[Message], *, ask: bool) -> str:
        """The text of these guarded messages. Raises `InputError` if the template does not accept them, or leaves out a call."""
        text = self._template.render(messages, ask=ask, tools=self._tools)
        names = {call.name for message in messages for call in message.calls}
        if lost := [name for name in names if name not in text]:
            raise InputError(f"the model's chat template leaves out calls of tools, such as {self._encoder.plain(lost[0], self.breaker)!r}")
        return text

    def with_mark(self, message: Message, mark: str) -> Message:
        """A guarded assistant's message with a mark before its text, behind a thought."""
        found = tagged_thought(message.text, self._shape)
        head, text = ("", message.text) if found is None else (found.opens + found.thought + found.closes, found.rest)
        bare = text.lstrip()
        return replace(message, text=f"{head}{text[: len(text) - len(bare)]}{mark}{bare}") if bare else message

    def _guarded(self, message: Message) -> Message:
        return replace(
            message,
            text=self._guarded_answer(clean(message.text)) if message.role == "assistant" else self._guard(clean(message.text)),
            thought=None if message.thought is None else self._guard(clean(message.thought)),
            calls=tuple(
                replace(call, name=self._guard(clean(call.name)), arguments=self._guarded_json(call.arguments)) for call in message.calls
            ),
            name=None if message.name is None else self._guard(clean(message.name)),
        )

    def _guarded_answer(self, text: str) -> str:
        found = tagged_thought(text, self._shape)
        if found is None:
            return self._guard(text, self._shown)
        return found.opens + self._guard(found.thought, self._shown) + found.closes + self._guard(found.rest, self._shown)

    def _guarded_json(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._guard(clean(value))
        if isinstance(value, Mapping):
            return {self._guard(clean(key)): self._guarded_json(item) for key, item in value.items()}
        return [self._guarded_json(item) for item in value] if isinstance(value, list) else value

    def _guard(self, text: str, allowed: frozenset[str] = frozenset()) -> str:
        return self._encoder.guard(text, self.breaker, allowed)


def tagged_thought(text: str, shape: TemplateShape) -> TaggedThought | None:
    """The thought in an assistant's text, if it is the only one and stands first; None if there is none."""
    opens, closes = shape.opens.strip(), shape.closes.strip()
    if not opens or shape.header or text.count(closes) != 1 or text.count(opens) > 1:
        return None
    before, rest = text.split(closes)
    space, tag, thought = before.partition(opens)
    if not tag:
        return TaggedThought(opens="", thought=before, closes=closes, rest=rest)
    return None if space.strip() or opens in rest else TaggedThought(opens=space + tag, thought=thought, closes=closes, rest=rest)


def _with_instructions(messages: Sequence[Message]) -> Sequence[Message]:
    """The same without a system message: its text precedes the first message."""
    if not messages or messages[0].role != "system":
        return messages
    if len(messages) == 1:
        return [Message(role="user", text=messages[0].text)]
    return [replace(messages[1], text=f"{messages[0].text}\n\n{messages[1].text}"), *messages[2:]]


def _texts(*values: Any) -> list[str]:
    """Every text in messages and JSON."""
    found: list[str] = []
    for value in values:
        match value:
            case str():
                found.append(clean(value))
            case Message():
                found += _texts(value.text, value.thought, value.name, *((call.name, call.arguments) for call in value.calls))
            case Mapping():
                found += _texts(*value.keys(), *value.values())
            case list() | tuple():
                found += _texts(*value)
    return found
