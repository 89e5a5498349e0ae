"""Rows in ShareGPT's form: `conversations` of `from` and `value`, as LLaMA-Factory describes it, with `system` and `tools` beside them.

`from` is human, gpt, system, function_call or observation; `tools`, and the value of a function_call, are JSON texts. Rows that keep
`role` and `content` under `conversations` are read as OpenAI's messages. Tags that a `gpt` value has written out stay text.
"""

from __future__ import annotations

import json

from perdure.memory.exchange.checked_row import Place, kind_of, row_of
from perdure.memory.exchange.conversation import OTHER_PARTS, Said, Unread, call_of, text_of, tools_of
from perdure.memory.exchange.foreign_records import ForeignEpisode
from perdure.memory.exchange.openai_form import episode_of, note_unread, read_message
from perdure.memory.json_value import JsonObject, JsonValue

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
ROW_KEYS = ("conversations", "system", "tools", "id", "model", "success", "reward", "total_reward")
MESSAGE_KEYS = ("from", "value", "weight")
_MEDIA = {"images": "images", "image": "an image", "videos": "videos", "audios": "sound"}
_PAIRS = ("chosen", "rejected")


def sharegpt_episode(document: JsonValue, place: Place, label: str, unread: Unread) -> ForeignEpisode:
    """One row. Raises `InputError` that names the place."""
    row = row_of(document, place)
    for key, what in _MEDIA.items():
        if row.values.get(key):
            raise place.at(key).bad(f"has {what}: only text can be learned from; take this row out")
    for key in _PAIRS:
        if row.values.get(key) is not None:
            raise place.at(key).bad("is of a pair to choose from: give conversations that end with their answer")
    note_unread(row.values, ROW_KEYS, "", unread)
    messages = row.items("conversations")
    if messages is None:
        raise place.at("conversations").bad("is missing: a row is {'conversations': [{'from', 'value'}, ...]}")
    said = [_message(message, place.at("conversations").at(n), unread) for n, message in enumerate(messages)]
    system = row.text("system")
    if system and not (said and said[0].message["role"] == "system"):
        said.insert(0, Said(message={"role": "system", "content": system}, place=place.at("system")))
    tools = tools_of(row.values.get("tools"), place.at("tools"))
    return episode_of(row, said, tools, place.at("conversations"), label, unread, sampler=row.text("model"))


def _message(document: JsonValue, place: Place, unread: Unread) -> Said:
    row = row_of(document, place)
    if "from" not in row.values and "role" in row.values:
        return read_message(document, place, unread)
    speaker = row.values.get("from")
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise place.at("from").bad(f"is {speaker if isinstance(speaker, str) else kind_of(speaker)!r}: it is one of {', '.join(SPEAKERS)}")
    for key in OTHER_PARTS:
        if row.values.get(key):
            raise place.at(key).bad(f"is {OTHER_PARTS[key]}: only text can be learned from; take this row out")
    note_unread(row.values, MESSAGE_KEYS, "conversations[].", unread)
    value = row.values.get("value")
    if value is None:
        raise place.at("value").bad("is missing")
    message: JsonObject = {"role": SPEAKERS[speaker], "content": ""}
    if speaker == "function_call":
        message["tool_calls"] = _calls(value, place.at("value"))
    else:
        message["content"] = text_of(value, place.at("value"))
    return Said(message=message, place=place, is_learned=row.values.get("weight") != 0)


def _calls(value: JsonValue, place: Place) -> list[JsonValue]:
    """The calls that a function_call's value names: one, or a list."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            why = (str(error).splitlines() or ["too deep"])[0]
            raise place.bad(f"is no JSON ({why}): give {{'name', 'arguments'}}, or a list of these") from error
    calls = value if isinstance(value, list) else [value]
    found: list[JsonValue] = []
    for n, call in enumerate(calls):
        at = place.at(n) if len(calls) > 1 else place
        one = row_of(call, at)
        found.append(call_of(one.values.get("name"), one.values.get("arguments"), one.values.get("id"), at))
    return found
