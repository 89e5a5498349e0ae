"""The form of imported trajectories that is Perdure's own (`--form perdure`). docs/store.md describes it, this file checks it.

Files are untrusted: every value has one type, numbers are finite, and unknown keys are errors. Errors name the file, the row and the key.
"""

from __future__ import annotations

import math

from perdure.memory.errors import InputError
from perdure.memory.exchange.checked_row import CheckedRow, Place, row_of
from perdure.memory.exchange.conversation import Said, Unread, stored_json, tools_of, with_results
from perdure.memory.exchange.document_digests import changed_parts
from perdure.memory.exchange.foreign_records import ForeignEpisode, ForeignTurn
from perdure.memory.exchange.openai_form import MESSAGE_KEYS, read_calls, read_message
from perdure.memory.json_value import JsonObject, JsonValue

EPISODE_KEYS = (
    "id",
    "environment",
    "seed",
    "group",
    "sampler",
    "base_model",
    "base_hash",
    "total_reward",
    "success",
    "state",
    "purpose",
    "instructions",
    "tools",
    "turns",
)
TURN_KEYS = (
    "messages",
    "observation",
    "prompt_ids",
    "action",
    "tool_calls",
    "reasoning_content",
    "action_ids",
    "logprobs",
    "reward",
    "finish",
)
NOT_KEPT = frozenset(
    {
        "member",
        "seat",
        "temperature",
        "task",
        "job",
        "attempt",
        "score",
        "stop_reason",
        "error",
        "started_at",
        "finished_at",
        "code",
        "digest",
        "batches",
        "rewards",
    }
)
"""Keys of our own exports that are ignored: they mean something only in the home that they come from."""
TURN_NOT_KEPT = frozenset({"n", "shared", "invalid", "sampler", "made_at", "digest"})


def parse_episode(document: JsonValue, place: Place) -> ForeignEpisode:
    """Check one row of a file. Raises `InputError` that names the place."""
    row = row_of(document, place, EPISODE_KEYS, NOT_KEPT)
    _check_digests(row)
    turns_at = place.at("turns")
    state = row.choice("state", ("completed", "aborted", "env_error")) or "completed"
    turns = tuple(_parse_turn(turn, turns_at.at(n)) for n, turn in enumerate(row.items("turns") or ()))
    if state == "completed" and not turns:
        raise turns_at.bad("is missing or empty: an episode has at least one answer")
    base_model = row.text("base_model")
    if base_model is None and any(turn.prompt_ids is not None or turn.action_ids is not None for turn in turns):
        raise place.at("base_model").bad("is missing: token ids mean nothing without the model whose tokenizer made them")
    environment = row.text("environment")
    if not environment:
        raise place.at("environment").bad("is missing: name what was attempted, in your own words")
    total_reward = row.reward("total_reward")
    rewards = [turn.reward for turn in turns if turn.reward is not None]
    if total_reward is None and turns and len(rewards) == len(turns):
        total_reward = math.fsum(rewards)
    return ForeignEpisode(
        name=row.name(),
        environment=environment,
        seed=row.integer("seed"),
        group=row.text("group"),
        sampler=row.text("sampler"),
        base_model=base_model,
        base_hash=row.text("base_hash"),
        total_reward=total_reward,
        success=row.flag("success"),
        state=state,
        purpose=row.text("purpose"),
        turns=turns,
        instructions=row.text("instructions"),
        tools=stored_json(tools) if (tools := tools_of(row.values.get("tools"), place.at("tools"))) else None,
    )


def _check_digests(row: CheckedRow) -> None:
    """Refuse an episode of our own exports that was changed since."""
    if row.text("digest") is None:
        return
    try:
        changed = next(changed_parts(row.values), None)
    except (KeyError, TypeError, ValueError, AttributeError, InputError):
        changed = "its form"
    if changed is not None:
        why = f"differs from that of what it covers ({changed}): the file was damaged, or edited; take the digests out if that was meant"
        raise row.place.at("digest").bad(why)


def _parse_turn(document: JsonValue, place: Place) -> ForeignTurn:
    row = row_of(document, place, TURN_KEYS, TURN_NOT_KEPT)
    messages, observation, prompt_ids = _messages(row), row.text("observation"), row.ids("prompt_ids")
    action, action_ids = row.text("action"), row.ids("action_ids")
    answer = _answer(row, action)
    if messages is None and observation is None and prompt_ids is None:
        raise place.bad("has no prompt: give messages, observation or prompt_ids")
    if action is None and action_ids is None and answer is None:
        raise place.bad("has no answer: give action, tool_calls or action_ids")
    return ForeignTurn(
        messages=messages,
        observation=observation,
        prompt_ids=prompt_ids,
        action="" if action is None and answer is not None else action,
        action_ids=action_ids,
        logprobs=row.logprobs(action_ids),
        reward=row.reward("reward"),
        finish=row.choice("finish", ("stop", "length")),
        answer=None if answer is None else stored_json(answer),
    )


def _messages(row: CheckedRow) -> str | None:
    """The conversation before the answer, as JSON text."""
    values = row.items("messages")
    if values is None:
        return None
    at = row.place.at("messages")
    said: list[Said] = []
    for n, value in enumerate(values):
        row_of(value, at.at(n), MESSAGE_KEYS)
        said.append(read_message(value, at.at(n), Unread()))
    if not said or said[-1].message["role"] == "assistant":
        raise at.bad("is empty or ends with an answer: the answer itself belongs in action")
    return stored_json([one.message for one in with_results(said)])


def _answer(row: CheckedRow, action: str | None) -> JsonObject | None:
    """The answer as a message; None if it is a text or tokens alone."""
    calls, thought = read_calls(row), row.text("reasoning_content")
    if not calls and not thought:
        return None
    message: JsonObject = {"role": "assistant", "content": action or ""}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = list(calls)
    return message
