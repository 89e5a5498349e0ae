"""JSON objects of files that are not trusted: values have one type, numbers are finite. Errors name the file, the row and the key."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from perdure.memory.errors import InputError
from perdure.memory.json_value import JsonObject, JsonValue
from perdure.memory.layout.blobs import pack_ids, pack_logprobs
from perdure.memory.trajectories.rewards import MOST_REWARD
from perdure.memory.trajectories.turns import valid_text

ROUNDING = 1e-3
"""How far above 0 rounding in low precision may bring a log-prob: it counts as 0."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRow:
    """A JSON object whose values are checked as they are read. A missing key reads as None, like null."""

    values: JsonObject
    place: Place

    def text(self, key: str) -> str | None:
        """A text; None if it is missing."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.place.at(key).bad(f"is {kind_of(value)}, not a text")
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
        """A text of these."""
        value = self.text(key)
        if value is not None and value not in values:
            raise self.place.at(key).bad(f"is {value!r}: it is one of {', '.join(values)}")
        return value

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.place.at(key).bad(f"is {kind_of(value)}, not true or false")
        return value

    def integer(self, key: str) -> int | None:
        """A whole number of 64 bits."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.place.at(key).bad(f"is {kind_of(value)}, not a whole number")
        if not -(2**63) <= value < 2**63:
            raise self.place.at(key).bad(f"is {value}, which has more than 64 bits")
        return value

    def reward(self, key: str) -> float | None:
        """A number that can be a reward."""
        value = self.values.get(key)
        if value is None:
            return None
        number = _finite(value, self.place.at(key))
        if abs(number) > MOST_REWARD:
            raise self.place.at(key).bad(f"is {number:g}: a reward is at most {MOST_REWARD:g} in size, so that sums of them are numbers")
        return number

    def items(self, key: str) -> list[JsonValue] | None:
        """A list."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.place.at(key).bad(f"is {kind_of(value)}, not a list")
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
                    shown = value if type(value) is int else kind_of(value)
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


def row_of(document: JsonValue, place: Place, keys: Collection[str] | None = None, ignored: Collection[str] = ()) -> CheckedRow:
    """A JSON object, of which no other keys than these are allowed; any, if none are given. Raises `InputError`."""
    if not isinstance(document, dict):
        raise place.bad(f"is {kind_of(document)}, not an object with keys")
    for key in document if keys is not None else ():
        assert keys is not None
        if key not in keys and key not in ignored:
            near = get_close_matches(str(key), keys, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f": the keys are {', '.join(keys)}"
            raise place.at(str(key)).bad(f"is an unknown key{hint}")
    return CheckedRow(values=document, place=place)


def _finite(value: JsonValue, place: Place) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise place.bad(f"is {kind_of(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise place.bad(f"is {number}: a number must be finite")
    return number


def kind_of(value: object) -> str:
    """What a value is, in words."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list", dict: "an object"}
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")
