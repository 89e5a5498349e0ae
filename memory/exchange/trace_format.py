"""The format of imported trajectories. docs/store.md describes it, this file checks it.

Files are untrusted: every value has one type, numbers are finite, and unknown keys are errors. Errors name the file, the row and the key.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from perdure.memory.blobs import pack_ids, pack_logprobs
from perdure.memory.errors import InputError
from perdure.memory.exchange.document_digests import changed_parts
from perdure.memory.json_value import JsonObject, JsonValue, to_json
from perdure.memory.trajectories.rewards import MOST_REWARD
from perdure.memory.trajectories.turns import valid_text

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
        "code",
        "digest",
        "batches",
        "rewards",
    }
)
"""Keys of our own exports that are ignored: they mean something only in the home that they come from."""
TURN_NOT_KEPT = frozenset({"n", "shared", "invalid", "sampler", "made_at", "digest"})
ROUNDING = 1e-3
"""How far above 0 rounding in low precision may bring a log-prob: it counts as 0."""
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTurn:
    """One answer and its prompt, ready for its row: ids and log-probs are packed."""

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
    """As in our exports; 'completed' if the file does not say."""
    purpose: str | None
    instructions: str | None
    """The system message of its task, if that differs from the environment's."""
    turns: tuple[ForeignTurn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place in a file, for error messages."""

    file: Path
    row: int
    key: str = ""
    mended: bool = False
    """Whether a text of this row had half of a character, as JSON can write it, which became '?'."""

    def at(self, key: str | int) -> Place:
        inner = f"[{key}]" if isinstance(key, int) else f".{key}" if self.key else key
        return replace(self, key=self.key + inner)

    def bad(self, why: str) -> InputError:
        return InputError(f"{self.file}, row {self.row}{', ' + self.key if self.key else ''}: {why}")


def parse_episode(document: JsonValue, place: Place) -> ForeignEpisode:
    """Check one row of a file. Raises `InputError` that names the place."""
    row = _object(document, place, EPISODE_KEYS, NOT_KEPT)
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
        instructions=row.text("instructions"),
        turns=turns,
    )


def _check_digests(row: _Row) -> None:
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
    row = _object(document, place, TURN_KEYS, TURN_NOT_KEPT)
    messages, observation, prompt_ids = row.messages(), row.text("observation"), row.ids("prompt_ids")
    action, action_ids = row.text("action"), row.ids("action_ids")
    if messages is None and observation is None and prompt_ids is None:
        raise place.bad("has no prompt: give messages, observation or prompt_ids")
    if action is None and action_ids is None:
        raise place.bad("has no answer: give action or action_ids")
    return ForeignTurn(
        messages=messages,
        observation=observation,
        prompt_ids=prompt_ids,
        action=action,
        action_ids=action_ids,
        logprobs=row.logprobs(action_ids),
        reward=row.reward("reward"),
        finish=row.choice("finish", ("stop", "length")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A JSON object whose values are checked as they are read. A missing key reads as None, like null."""

    values: JsonObject
    place: Place

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.place.at(key).bad(f"is {_kind(value)}, not a text")
        return valid_text(value)

    def name(self) -> str | None:
        """The `id` as a text: other pipelines number their episodes or name them."""
        value = self.values.get("id")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return self.text("id")

    def choice(self, key: str, values: Sequence[str]) -> str | None:
        value = self.text(key)
        if value is not None and value not in values:
            raise self.place.at(key).bad(f"is {value!r}: it is one of {', '.join(values)}")
        return value

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.place.at(key).bad(f"is {_kind(value)}, not true or false")
        return value

    def integer(self, key: str) -> int | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.place.at(key).bad(f"is {_kind(value)}, not a whole number")
        if not -(2**63) <= value < 2**63:
            raise self.place.at(key).bad(f"is {value}, which has more than 64 bits")
        return value

    def reward(self, key: str) -> float | None:
        value = self.values.get(key)
        if value is None:
            return None
        number = _finite(value, self.place.at(key))
        if abs(number) > MOST_REWARD:
            raise self.place.at(key).bad(f"is {number:g}: a reward is at most {MOST_REWARD:g} in size, so that sums of them are numbers")
        return number

    def items(self, key: str) -> list[JsonValue] | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.place.at(key).bad(f"is {_kind(value)}, not a list")
        return value

    def ids(self, key: str) -> bytes | None:
        """Token ids, packed."""
        values = self.items(key)
        if values is None:
            return None
        ids = [value for value in values if type(value) is int]
        if len(ids) < len(values) or (ids and (min(ids) < 0 or max(ids) >= 2**31)):
            for n, value in enumerate(values):  # looks for the bad one only if there is one
                if type(value) is not int or not 0 <= value < 2**31:
                    shown = value if type(value) is int else _kind(value)
                    raise self.place.at(key).at(n).bad(f"is {shown}, not a token id (0 to {2**31 - 1})")
        return pack_ids(ids)

    def logprobs(self, action_ids: bytes | None) -> bytes | None:
        """Log-probs, packed: one for each of these packed ids."""
        values = self.items("logprobs")
        if values is None:
            return None
        at = self.place.at("logprobs")
        numbers = [value for value in values if type(value) is float]
        if len(numbers) < len(values) or not all(map(math.isfinite, numbers)):
            numbers = [_finite(value, at.at(n)) for n, value in enumerate(values)]
        if any(number > 0 for number in numbers):
            for n, number in enumerate(numbers):
                if number > ROUNDING:
                    raise at.at(n).bad(f"is {number}: the logarithm of a probability is at most 0")
            numbers = [min(number, 0.0) for number in numbers]
        if action_ids is None or len(action_ids) != 4 * len(numbers):
            tokens = "no action_ids" if action_ids is None else f"{len(action_ids) // 4} action_ids"
            raise at.bad(f"has {len(numbers)} values for {tokens}: give one per token")
        try:
            return pack_logprobs(numbers)
        except OverflowError:
            raise at.bad("has a value that float32 cannot hold") from None

    def messages(self) -> str | None:
        """The conversation before the answer, as JSON text."""
        values = self.items("messages")
        if values is None:
            return None
        at = self.place.at("messages")
        messages = [_message(value, at.at(n)) for n, value in enumerate(values)]
        if not messages or messages[-1]["role"] == "assistant":
            raise at.bad("is empty or ends with an answer: the answer itself belongs in action")
        return to_json(messages)


def _message(document: JsonValue, place: Place) -> dict[str, str]:
    row = _object(document, place, ("role", "content"), ())
    role, content = row.choice("role", ROLES), row.text("content")
    if role is None or content is None:
        raise place.bad("needs role and content")
    return {"role": role, "content": content}


def _object(document: JsonValue, place: Place, keys: Collection[str], ignored: Collection[str]) -> _Row:
    if not isinstance(document, dict):
        raise place.bad(f"is {_kind(document)}, not an object with keys")
    for key in document:
        if key not in keys and key not in ignored:
            near = get_close_matches(str(key), keys, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f": the keys are {', '.join(keys)}"
            raise place.at(str(key)).bad(f"is an unknown key{hint}")
    return _Row(values=document, place=place)


def _finite(value: JsonValue, place: Place) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise place.bad(f"is {_kind(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise place.bad(f"is {number}: a number must be finite")
    return number


def _kind(value: object) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")
