"""The form in which trajectories of other pipelines come in, and its check: docs/store.md describes it, this file enforces it.

What comes in is untrusted. Every value has one type, a number is finite, a key that is not known is an error, and an error names the file,
the row and the key.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from perdure.memory.blobs import pack_ids, pack_logprobs
from perdure.memory.errors import InputError
from perdure.memory.json_value import to_json
from perdure.memory.replay.turns import valid_text

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
    "turns",
)
TURN_KEYS = ("messages", "observation", "prompt_ids", "action", "action_ids", "logprobs", "reward", "finish")
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
        "batches",
        "rewards",
    }
)
"""Keys of our own exports that are read over: they say something only in the home that they come from."""
TURN_NOT_KEPT = frozenset({"n", "invalid", "sampler", "made_at"})
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTurn:
    """One answer and what it answered to, ready for its row: ids and log-probs are packed."""

    messages: str | None
    observation: str | None
    prompt_ids: bytes | None
    action: str | None
    action_ids: bytes | None
    logprobs: bytes | None
    reward: float | None
    finish: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignEpisode:
    """One trajectory of another pipeline."""

    name: str | None
    environment: str
    seed: int | None
    group: str | None
    sampler: str | None
    base_model: str | None
    base_hash: str | None
    total_reward: float | None
    success: bool | None
    state: str
    """As an export of ours says it; 'completed' where nothing is said."""
    purpose: str | None
    turns: tuple[ForeignTurn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a file something stands."""

    file: Path
    row: int
    key: str = ""

    def at(self, key: str | int) -> Place:
        inner = f"[{key}]" if isinstance(key, int) else f".{key}" if self.key else key
        return replace(self, key=self.key + inner)

    def bad(self, why: str) -> InputError:
        return InputError(f"{self.file}, row {self.row}{', ' + self.key if self.key else ''}: {why}")


def parse_episode(document: Any, place: Place) -> ForeignEpisode:
    """One row of a file. Raises `InputError` with its place."""
    row = _object(document, place, EPISODE_KEYS, NOT_KEPT)
    turns_at = place.at("turns")
    state = _one_of(row, "state", place, ("completed", "aborted", "env_error")) or "completed"
    turns = tuple(_parse_turn(turn, turns_at.at(n)) for n, turn in enumerate(_list(row, "turns", place) or ()))
    if state == "completed" and not turns:
        raise turns_at.bad("is missing or empty: an episode has at least one answer")
    base_model = _text(row, "base_model", place)
    if base_model is None and any(turn.prompt_ids is not None or turn.action_ids is not None for turn in turns):
        raise place.at("base_model").bad("is missing: token ids mean nothing without the model whose tokenizer made them")
    environment = _text(row, "environment", place)
    if not environment:
        raise place.at("environment").bad("is missing: name what was attempted, in words of your own")
    total_reward = _number(row, "total_reward", place)
    rewards = [turn.reward for turn in turns if turn.reward is not None]
    if total_reward is None and turns and len(rewards) == len(turns):
        total_reward = math.fsum(rewards)
    return ForeignEpisode(
        name=_name(row, place),
        environment=environment,
        seed=_integer(row, "seed", place),
        group=_text(row, "group", place),
        sampler=_text(row, "sampler", place),
        base_model=base_model,
        base_hash=_text(row, "base_hash", place),
        total_reward=total_reward,
        success=_flag(row, "success", place),
        state=state,
        purpose=_text(row, "purpose", place),
        turns=turns,
    )


def _parse_turn(document: Any, place: Place) -> ForeignTurn:
    row = _object(document, place, TURN_KEYS, TURN_NOT_KEPT)
    messages, observation, prompt_ids = _messages(row, place), _text(row, "observation", place), _ids(row, "prompt_ids", place)
    action, action_ids = _text(row, "action", place), _ids(row, "action_ids", place)
    if messages is None and observation is None and prompt_ids is None:
        raise place.bad("says not what was answered: give messages, observation or prompt_ids")
    if action is None and action_ids is None:
        raise place.bad("has no answer: give action or action_ids")
    return ForeignTurn(
        messages=messages,
        observation=observation,
        prompt_ids=prompt_ids,
        action=action,
        action_ids=action_ids,
        logprobs=_logprobs(row, place, action_ids),
        reward=_number(row, "reward", place),
        finish=_one_of(row, "finish", place, ("stop", "length")),
    )


def _object(document: Any, place: Place, keys: Collection[str], not_kept: Collection[str]) -> Mapping[str, Any]:
    if not isinstance(document, dict):
        raise place.bad(f"is {_kind(document)}, not an object with keys")
    for key in document:
        if key not in keys and key not in not_kept:
            near = get_close_matches(str(key), keys, n=1)
            raise place.at(str(key)).bad("is no known key" + (f"; did you mean {near[0]!r}?" if near else f": there are {', '.join(keys)}"))
    return document


def _text(row: Mapping[str, Any], key: str, place: Place) -> str | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise place.at(key).bad(f"is {_kind(value)}, not a text")
    return valid_text(value)


def _name(row: Mapping[str, Any], place: Place) -> str | None:
    """Other pipelines number their episodes or name them."""
    value = row.get("id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(row, "id", place)


def _one_of(row: Mapping[str, Any], key: str, place: Place, values: Sequence[str]) -> str | None:
    value = _text(row, key, place)
    if value is not None and value not in values:
        raise place.at(key).bad(f"is {value!r}: it is one of {', '.join(values)}")
    return value


def _flag(row: Mapping[str, Any], key: str, place: Place) -> bool | None:
    value = row.get(key)
    if value is not None and not isinstance(value, bool):
        raise place.at(key).bad(f"is {_kind(value)}, not true or false")
    return value


def _integer(row: Mapping[str, Any], key: str, place: Place) -> int | None:
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise place.at(key).bad(f"is {_kind(value)}, not a whole number")
    if not -(2**63) <= value < 2**63:
        raise place.at(key).bad(f"is {value}, which has more than 64 bits")
    return value


def _number(row: Mapping[str, Any], key: str, place: Place) -> float | None:
    value = row.get(key)
    return None if value is None else _finite(value, place.at(key))


def _finite(value: Any, place: Place) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise place.bad(f"is {_kind(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise place.bad(f"is {number}: a number must be finite")
    return number


def _list(row: Mapping[str, Any], key: str, place: Place) -> list[Any] | None:
    value = row.get(key)
    if value is not None and not isinstance(value, list):
        raise place.at(key).bad(f"is {_kind(value)}, not a list")
    return value


def _ids(row: Mapping[str, Any], key: str, place: Place) -> bytes | None:
    ids = _list(row, key, place)
    if ids is None:
        return None
    if ids and (set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) >= 2**31):  # which of them is looked at only where one is bad
        for n, id_ in enumerate(ids):
            if not isinstance(id_, int) or isinstance(id_, bool) or not 0 <= id_ < 2**31:
                raise place.at(key).at(n).bad(f"is {id_ if type(id_) is int else _kind(id_)}, not a token id (0 to {2**31 - 1})")
    return pack_ids(ids)


def _logprobs(row: Mapping[str, Any], place: Place, action_ids: bytes | None) -> bytes | None:
    values = _list(row, "logprobs", place)
    if values is None:
        return None
    at = place.at("logprobs")
    if set(map(type, values)) - {float} or not all(map(math.isfinite, values)):
        values = [_finite(value, at.at(n)) for n, value in enumerate(values)]
    if action_ids is None or len(action_ids) != 4 * len(values):
        tokens = "no action_ids" if action_ids is None else f"{len(action_ids) // 4} action_ids"
        raise at.bad(f"has {len(values)} values for {tokens}: there is one a token")
    try:
        return pack_logprobs(values)
    except OverflowError:
        raise at.bad("has a value that float32 cannot hold") from None


def _messages(row: Mapping[str, Any], place: Place) -> str | None:
    """A conversation that ends before the answer, as JSON."""
    messages = _list(row, "messages", place)
    if messages is None:
        return None
    at = place.at("messages")
    kept = []
    for n, message in enumerate(messages):
        said = _object(message, at.at(n), ("role", "content"), ())
        role, content = _one_of(said, "role", at.at(n), ROLES), _text(said, "content", at.at(n))
        if role is None or content is None:
            raise at.at(n).bad("needs role and content")
        kept.append({"role": role, "content": content})
    if not kept or kept[-1]["role"] == "assistant":
        raise at.bad("ends with an answer, or is empty: the answer itself goes into action")
    return to_json(kept)


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")
