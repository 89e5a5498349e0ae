"""What a tokenizer says of a conversation by itself, to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from perdure.envs.policy import Message
from perdure.learners.chat.template_chat import TemplateChat


def by_template(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, ask: bool = True, parts: bool = False, **options: Any
) -> list[int]:
    """The ids of `apply_chat_template`."""
    said = []
    for message in messages:
        turn: dict[str, Any] = {"role": message.role, "content": [{"type": "text", "text": message.text}] if parts else message.text}
        if message.thought is not None:
            turn |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), message.thought)
        if message.calls:
            turn["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in message.calls
            ]
        if message.call_id is not None:
            turn["tool_call_id"] = message.call_id
        if message.name is not None:
            turn["name"] = message.name
        said.append(turn)
    ids: list[int] = tokenizer.apply_chat_template(said, add_generation_prompt=ask, return_dict=False, **options)
    return ids


def accepted(chat: TemplateChat, messages: Sequence[Message]) -> list[Message]:
    """The conversation as the chat gives it to a template without a system role: the instructions precede the first message."""
    if chat.shape.has_system or messages[0].role != "system":
        return list(messages)
    first, second, *rest = messages
    return [Message(role=second.role, text=f"{first.text}\n\n{second.text}"), *rest]


def of_template(chat: TemplateChat, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, ask: bool = True) -> list[int]:
    """`by_template` with what the chat has found of the template, and its date."""
    date = chat.settings.date
    return by_template(
        tokenizer,
        accepted(chat, messages),
        ask=ask,
        parts=chat.template.parts,
        strftime_now=date.strftime,
        **chat.settings.template_options,
    )


def scaffolding(chat: TemplateChat, ids: Iterable[int]) -> list[int]:
    """The control tokens among these."""
    return [number for number in ids if number in chat.encoder.control_ids]
