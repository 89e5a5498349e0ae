"""Rows in the form of OpenAI's chat: `messages`, with `tools` if there are any, as for fine-tuning and in logs of servers that speak it.

By the description of the chat completions API and of its fine-tuning files: roles system, developer, user, assistant and tool (function
before), content as a text, parts or null, `tool_calls`, the older `function_call`, `weight` 0 for answers that are not to be learned.
`reasoning_content` and `reasoning` are how servers of open models give thoughts.
"""

from __future__ import annotations

from perdure.memory.exchange.checked_row import CheckedRow, Place, kind_of, row_of
from perdure.memory.exchange.conversation import Said, Unread, call_of, stored_json, text_of, tools_of, turns_of
from perdure.memory.exchange.foreign_records import ForeignEpisode
from perdure.memory.json_value import JsonObject, JsonValue
from perdure.memory.trajectories.turns import valid_text

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
ROW_KEYS = ("messages", "tools", "functions", "id", "model", "success", "reward", "total_reward")
MESSAGE_KEYS = (
    "role",
    "content",
    "tool_calls",
    "function_call",
    "tool_call_id",
    "name",
    "refusal",
    "reasoning_content",
    "reasoning",
    "weight",
)
_NOT_TEXT = {"audio": "sound", "images": "images", "image": "an image", "videos": "videos", "audios": "sound"}


def openai_episode(document: JsonValue, place: Place, label: str, unread: Unread) -> ForeignEpisode:
    """One row. Raises `InputError` that names the place."""
    row = row_of(document, place)
    note_unread(row.values, ROW_KEYS, "", unread)
    messages = row.items("messages")
    if messages is None:
        raise place.at("messages").bad("is missing: a row is {'messages': [...]}, with 'tools' if there are any")
    said = [read_message(message, place.at("messages").at(n), unread) for n, message in enumerate(messages)]
    tools = tools_of(row.values.get("tools"), place.at("tools")) + tools_of(row.values.get("functions"), place.at("functions"))
    return episode_of(row, said, tools, place.at("messages"), label, unread, sampler=row.text("model"))


def episode_of(
    row: CheckedRow, said: list[Said], tools: list[JsonValue], place: Place, label: str, unread: Unread, *, sampler: str | None
) -> ForeignEpisode:
    """A conversation as an episode. It is to be imitated, unless its row says by `success` or `reward` how it went."""
    success = row.flag("success")
    reward = row.reward("total_reward" if row.values.get("total_reward") is not None else "reward")
    return ForeignEpisode(
        name=row.name(),
        environment=label,
        seed=None,
        group=None,
        sampler=sampler,
        base_model=None,
        base_hash=None,
        total_reward=reward,
        success=True if success is None and reward is None else success,
        state="completed",
        purpose=None,
        turns=turns_of(said, place, unread),
        tools=stored_json(tools) if tools else None,
    )


def read_message(document: JsonValue, place: Place, unread: Unread) -> Said:
    """One message. Raises `InputError` for roles that are not known, parts that are no text, and calls that cannot be read."""
    row = row_of(document, place)
    role = row.values.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise place.at("role").bad(f"is {role if isinstance(role, str) else kind_of(role)!r}: it is one of {', '.join(ROLES)}")
    for key, what in _NOT_TEXT.items():
        if row.values.get(key):
            raise place.at(key).bad(f"is {what}: only text can be learned from; take this row out")
    note_unread(row.values, MESSAGE_KEYS, "messages[].", unread)
    content = row.values.get("content")
    message: JsonObject = {"role": ROLES[role], "content": text_of(content, place.at("content"))}
    if message["role"] == "assistant":
        return _answer(row, message, place)
    if content is None:
        raise place.at("content").bad("is missing: only an assistant that calls a tool may say nothing")
    if message["role"] == "tool":
        number = row.values.get("tool_call_id")
        if number is not None:
            message["tool_call_id"] = str(number)
    return Said(message=message, place=place)


def note_unread(values: JsonObject, keys: tuple[str, ...], where: str, unread: Unread) -> None:
    """Count the keys that are not read, unless they are empty."""
    for key, value in values.items():
        if key not in keys and value not in (None, "", [], {}, False):
            unread[f"{where}{key}"] += 1


def _answer(row: CheckedRow, message: JsonObject, place: Place) -> Said:
    values = row.values
    thought = row.text("reasoning_content") or row.text("reasoning")
    calls = read_calls(row)
    if not message["content"] and isinstance(values.get("refusal"), str):
        message["content"] = valid_text(str(values["refusal"]))
    if values.get("content") is None and not calls and not message["content"]:
        raise place.bad("has neither content nor tool_calls: give one of them")
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = list(calls)
    weight = values.get("weight")
    if weight not in (None, 0, 1):
        raise place.at("weight").bad("is neither 0 nor 1")
    return Said(message=message, place=place, is_learned=weight != 0)


def read_calls(row: CheckedRow) -> list[JsonObject]:
    """The calls of a message, in today's shape or in the older one."""
    calls = [_call(call, row.place.at("tool_calls").at(n)) for n, call in enumerate(row.items("tool_calls") or ())]
    older = row.values.get("function_call")
    if older is not None:
        calls.append(_call({"type": "function", "function": older}, row.place.at("function_call")))
    return calls


def _call(document: JsonValue, place: Place) -> JsonObject:
    row = row_of(document, place)
    kind = row.values.get("type", "function")
    if kind != "function":
        raise place.bad(f"is a call of the type {kind!r}: only functions have a place in a chat template")
    function = row_of(row.values.get("function", row.values), place)
    return call_of(function.values.get("name"), function.values.get("arguments"), row.values.get("id"), place)
