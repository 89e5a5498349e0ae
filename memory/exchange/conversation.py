"""Conversations of other programs: messages in the shape of OpenAI's, checked, and the turns that can be learned from them.

A message is kept as `role`, `content` (always a text), and for agents `reasoning_content`, `tool_calls` (arguments always an object),
`tool_call_id` and `name`, the shape that chat templates expect. Left out: which file has which keys (`openai_form.py` and its neighbours).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from perdure.memory.exchange.checked_row import Place, kind_of
from perdure.memory.exchange.foreign_records import ForeignTurn
from perdure.memory.json_value import JsonObject, JsonValue, to_json
from perdure.memory.trajectories.turns import valid_text

Unread = Counter[str]
"""How often each key was passed over."""
TEXT_PARTS = ("text", "input_text", "output_text")
OTHER_PARTS = {
    "image": "an image",
    "image_url": "an image",
    "input_image": "an image",
    "audio": "sound",
    "input_audio": "sound",
    "audio_url": "sound",
    "video": "a video",
    "video_url": "a video",
    "file": "a file",
    "input_file": "a file",
}
"""Parts of a message that are no text, and what they are."""
_NO_MORE_SAID: JsonObject = {"description": "", "parameters": {"type": "object", "properties": {}}}
"""Of a tool; both may be missing in a file, and templates ask for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledIds:
    """Tokens of an answer as they were sampled, packed."""

    prompt_ids: bytes
    action_ids: bytes
    logprobs: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A message and what is known of it."""

    message: JsonObject
    place: Place
    is_learned: bool = True
    """Of an assistant's message: whether it is an answer to learn from, or stands only in the prompts of later ones."""
    has_all_results: bool = False
    """Of an assistant's message: whether calls without a result had none, as far as the form tells."""
    replaces: bool = False
    """Whether the agent saw nothing of what was said before it from then on."""
    ids: SampledIds | None = None


def text_of(value: JsonValue, place: Place) -> str:
    """A message's text: a text, nothing, or parts that are texts. Raises `InputError` that names an image or other part."""
    if value is None:
        return ""
    if isinstance(value, str):
        return valid_text(value)
    if not isinstance(value, list):
        raise place.bad(f"is {kind_of(value)}, not a text or a list of parts")
    return "".join(_part(part, place.at(n)) for n, part in enumerate(value))


def _part(part: JsonValue, place: Place) -> str:
    if isinstance(part, str):
        return valid_text(part)
    if not isinstance(part, dict):
        raise place.bad(f"is {kind_of(part)}, not a part of a message")
    kind = part.get("type")
    if isinstance(kind, str) and kind in OTHER_PARTS:
        raise place.bad(f"is {OTHER_PARTS[kind]}: only text can be learned from; take this row out")
    text = part.get("refusal" if kind == "refusal" else "text")
    if kind not in (*TEXT_PARTS, "refusal") or not isinstance(text, str):
        raise place.bad(f"is a part of the type {kind!r}: only text can be learned from; take this row out")
    return valid_text(text)


def arguments_of(value: JsonValue, place: Place) -> JsonObject:
    """The arguments of a call, given as an object or as its JSON text; none is an empty object."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise place.bad(f"is no JSON ({(str(error).splitlines() or ['too deep'])[0]}): give an object, or its JSON text") from error
    elif value is None or isinstance(value, str):
        value = {}
    if not isinstance(value, dict):
        raise place.bad(f"is {kind_of(value)}: arguments are an object, or its JSON text")
    return value


def call_of(name: JsonValue, arguments: JsonValue, number: JsonValue, place: Place) -> JsonObject:
    """One call of a tool, in the shape of OpenAI's."""
    if not isinstance(name, str) or not name:
        raise place.bad("has no name of a function")
    call: JsonObject = {} if number is None else {"id": str(number)}
    return {**call, "type": "function", "function": {"name": name, "arguments": arguments_of(arguments, place.at("arguments"))}}


def tools_of(value: JsonValue, place: Place) -> list[JsonValue]:
    """Declared tools in the shape of OpenAI's, given as a list or as its JSON text, with or without their wrapping."""
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_no_constant) if value.strip() else None
        except (ValueError, RecursionError) as error:
            raise place.bad(f"is no JSON ({(str(error).splitlines() or ['too deep'])[0]}): give a list of tools") from error
    if value is None:
        return []
    if not isinstance(value, list):
        raise place.bad(f"is {kind_of(value)}, not a list of tools")
    return [_tool(tool, place.at(n)) for n, tool in enumerate(value)]


def _tool(tool: JsonValue, place: Place) -> JsonObject:
    if not isinstance(tool, dict):
        raise place.bad(f"is {kind_of(tool)}, not a tool")
    kind = tool.get("type", "function")
    function = tool.get("function", tool)
    if kind != "function" or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise place.bad("is no function with a name: other tools have no place in a chat template")
    declared = {key: value for key, value in function.items() if key != "type"}
    return {"type": "function", "function": declared | {key: value for key, value in _NO_MORE_SAID.items() if key not in declared}}


def turns_of(said: Sequence[Said], place: Place, unread: Unread) -> tuple[ForeignTurn, ...]:
    """The answers of a conversation, each with what was said since the answer before it.

    What follows the last answer is passed over: the trace was cut there. Raises `InputError` if a result answers no call, if a call inside
    the conversation has no result, or if there is no answer to learn from.
    """
    said = with_results(said)
    turns: list[ForeignTurn] = []
    new: list[JsonObject] = []
    starts_anew = False
    for one in said:
        if one.replaces:
            new, starts_anew = [], True
        if one.message["role"] != "assistant" or not one.is_learned or not (new or (turns and not starts_anew)):
            new.append(one.message)
            continue
        turns.append(_turn(one, new, continues=bool(turns) and not starts_anew))
        new, starts_anew = [], False
    if not turns:
        raise place.bad("has no answer to learn from: no assistant's message after another's")
    if new:
        unread["messages after the last answer"] += len(new)
    return tuple(turns)


def _turn(one: Said, new: Sequence[JsonObject], *, continues: bool) -> ForeignTurn:
    text = one.message["content"]
    return ForeignTurn(
        messages=stored_json(list(new)),
        observation=None,
        prompt_ids=None if one.ids is None else one.ids.prompt_ids,
        action=str(text),
        action_ids=None if one.ids is None else one.ids.action_ids,
        logprobs=None if one.ids is None else one.ids.logprobs,
        reward=None,
        finish=None,
        answer=stored_json(one.message) if one.message.keys() > {"role", "content"} else None,
        continues=continues,
    )


def stored_json(value: object) -> str:
    """JSON text for the store: half a character becomes '?'."""
    return valid_text(to_json(value))


def with_results(said: Sequence[Said]) -> list[Said]:
    """Messages with the names of the functions in the results. Raises `InputError` for results and calls that do not belong together."""
    found: list[Said] = []
    open_calls: list[tuple[str | None, str]] = []
    has_all_results = False
    for one in said:
        message = one.message
        if message["role"] == "tool":
            call = _answered(message, open_calls)
            if call is None:
                number = message.get("tool_call_id")
                named = "" if number is None else f" (there is none with the id {number!r})"
                raise one.place.bad(f"answers no call{named}: the message that calls comes before it")
            open_calls.remove(call)
            message = {**message, "name": call[1]}
        elif open_calls and not has_all_results:
            number, name = open_calls[0]
            called = name if number is None else f"{name} ({number!r})"
            raise one.place.bad(f"comes before the result of the call of {called}: the trace was cut there; take this row out")
        if message["role"] == "assistant":
            open_calls = [_call_key(call) for call in _calls(message)]
            has_all_results = one.has_all_results
        found.append(replace(one, message=message))
    return found


def _answered(message: JsonObject, open_calls: Sequence[tuple[str | None, str]]) -> tuple[str | None, str] | None:
    """The call that a result belongs to: by its id, or else the first one."""
    number = message.get("tool_call_id")
    if number is None:
        return open_calls[0] if open_calls else None
    by_number = next((call for call in open_calls if call[0] == number), None)
    return by_number or next((call for call in open_calls if call[0] is None), None)


def _calls(message: Mapping[str, JsonValue]) -> list[JsonObject]:
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _call_key(call: JsonObject) -> tuple[str | None, str]:
    function, number = call["function"], call.get("id")
    assert isinstance(function, dict)
    return None if number is None else str(number), str(function["name"])


def _no_constant(name: str) -> None:
    raise ValueError(f"JSON has no number {name}")
