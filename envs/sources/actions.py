"""Answers of a policy as values of Gymnasium's spaces: one line of instructions says how to answer, and one grammar reads the answers.

    Discrete                         a number or a name                  2          left
    MultiDiscrete, MultiBinary, Box  numbers, row by row                 0 1 1      0.5, -1
    Tuple                            parts between semicolons            left; 0.5
    Dict                             the same with keys                  move: left; power: 0.5
    nested Tuple or Dict             JSON                                ["left", [0, 1]]    {"move": "left", "hand": {"card": 3}}

The wrapping of an answer does not matter (`envs/answers.py`), its content does: a value out of bounds is not an answer, and nothing is
clipped. `envs/sources/spaces.py` decides which spaces can be text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from perdure.envs.answers import bare, plain
from perdure.envs.sources.spaces import is_row, keys, short
from perdure.memory.errors import InputError
from perdure.memory.json_value import JsonObject, JsonValue

FEW = 10
"""Up to this many numbers of a `Discrete` are listed one by one; of more, the first and the last are named."""
QUOTED = 40
"""How many letters of a wrong answer an error repeats."""

Names = Sequence[Any] | Mapping[str, Any]
"""Of a `Discrete`: a name for each number, in order. Of a `Tuple` or a `Dict`: the names of each part, by place or by key."""

WHOLE = re.compile(r"[+-]?[0-9]{1,20}")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
TOKEN = re.compile(r"[^\s,\[\]()]+")
PART = re.compile(r"[;\n]")


class NoAnswer(ValueError):
    """A text that is not a value of its space. Its message says how to answer; the policy reads it, so its words stay as they are."""


def check_names(space: Space[Any], names: Names) -> None:
    """Raises `InputError` if names are given that do not fit their space."""
    match space:
        case spaces.Dict() if isinstance(names, Mapping) and names.keys() <= space.spaces.keys():
            for key, part in space.spaces.items():
                check_names(part, _below(names, key))
        case spaces.Tuple() if not isinstance(names, Mapping) and len(names) in (0, len(space.spaces)):
            for i, part in enumerate(space.spaces):
                check_names(part, _below(names, i))
        case spaces.Discrete() if names:
            words = [plain(name) for name in names if isinstance(name, str)]
            if not len(set(words)) == len(names) == space.n or any(WHOLE.fullmatch(word) or not word for word in words):
                raise InputError(f"the names {names!r} do not fit {space}: each number needs one of its own, and none may be a number")
        case _ if names:
            raise InputError(f"the names {names!r} do not fit {space}")


def how_to_answer(space: Space[Any], names: Names = ()) -> str:
    """One line of instructions."""
    return f"Reply with only {_form(space, names)}."


def parse(space: Space[Any], text: str, names: Names = ()) -> Any:
    """The value of an answer. Raises `NoAnswer`. For a `Text` space every text is accepted."""
    try:
        return _read(space, text, names)
    except NoAnswer as error:
        raise NoAnswer(f"{error}. {how_to_answer(space, names)}") from None
    except RecursionError:
        raise NoAnswer(f"it is nested too deep. {how_to_answer(space, names)}") from None


def answer(space: Space[Any], value: Any, names: Names = ()) -> str:
    """The answer that `parse` reads as this value."""
    match space:
        case spaces.Dict() | spaces.Tuple():
            texts = [answer(space[key], value[key], _below(names, key)) for key in keys(space)]
            flat = "; ".join(
                texts if isinstance(space, spaces.Tuple) else [f"{key}: {text}" for key, text in zip(keys(space), texts, strict=True)]
            )
            if not _is_nested(space) and flat[:1] not in ("[", "{") and _try_split(space, flat) == texts:
                return flat
            return json.dumps(_plain_json(space, value, names), ensure_ascii=False)
        case spaces.Text():
            return str(value)
        case spaces.Discrete():
            return str(names[int(value) - int(space.start)] if isinstance(names, Sequence) and names else int(value))
        case _:
            return " ".join(map(str, np.ravel(np.asarray(value, dtype=space.dtype))))


# --- instructions ---


def _form(space: Space[Any], names: Names, in_json: bool = False) -> str:
    match space:
        case spaces.Text():
            return "any text"
        case spaces.Discrete():
            first, last = int(space.start), int(space.start + space.n - 1)
            choices = names or (range(first, last + 1) if space.n <= FEW else ())
            return f"one of {', '.join(map(str, choices))}" if choices else f"a number from {first} to {last}"
        case spaces.Dict() | spaces.Tuple():
            as_json = in_json or _is_nested(space)
            forms = [(key, _form(space[key], _below(names, key), as_json)) for key in keys(space)]
            if not as_json:
                lines = [f"{key}: {form}" if isinstance(space, spaces.Dict) else form for key, form in forms]
                return "; ".join(lines) if isinstance(space, spaces.Dict) else f"{'; then '.join(lines)}, with semicolons between them"
            inside = ", ".join(f'"{key}": {form}' if isinstance(space, spaces.Dict) else form for key, form in forms)
            outside = f"{{{inside}}}" if isinstance(space, spaces.Dict) else f"[{inside}]"
            return outside if in_json else f"JSON: {outside}"
        case _:
            return _numbers_form(space, in_json)


def _numbers_form(space: Space[Any], in_json: bool) -> str:
    kind = "number" if space.dtype is not None and space.dtype.kind == "f" else "whole number"
    ranges = [_range(*bounds) for bounds in zip(*_bounds(space), strict=True)]
    each = f"each {ranges[0]}" if len(set(ranges)) == 1 else ", ".join(ranges)
    several = f"{len(ranges)} {kind}s{'' if in_json else ' with spaces between them'}, {each}"
    form = f"a {kind} {ranges[0]}" if len(ranges) == 1 else several
    return f"[{form}]" if in_json else form


def _range(low: Any, high: Any) -> str:
    low, high = low.item() if isinstance(low, np.generic) else low, high.item() if isinstance(high, np.generic) else high
    if math.isinf(low) and math.isinf(high):
        return "of any size"
    if math.isinf(high):
        return f"from {short(low)}"
    return f"up to {short(high)}" if math.isinf(low) else f"from {short(low)} to {short(high)}"


# --- answers ---


def _read(space: Space[Any], part: Any, names: Names) -> Any:
    """`part` is text, or a list or dictionary from JSON, whose numbers are still text."""
    match space:
        case spaces.Discrete():  # first, because it is the most frequent, and matching the composed ones is slow
            return _choice(space, _text(part), names)
        case spaces.Dict():
            texts = _split(space, part)
            return {key: _read(space[key], text, _below(names, key)) for key, text in zip(keys(space), texts, strict=True)}
        case spaces.Tuple():
            return tuple(_read(space[i], text, _below(names, i)) for i, text in enumerate(_split(space, part)))
        case spaces.Text():
            return _text(part)
        case _:
            return _array(space, " ".join(_flat(part)) if isinstance(part, list) else _text(part))


def _split(space: spaces.Dict | spaces.Tuple[Any], answer: Any) -> list[Any]:
    """The parts of an answer, in the order of the space."""
    parts = answer
    if isinstance(answer, str):
        text = answer.strip()
        opening = "[" if isinstance(space, spaces.Tuple) else "{"
        parts = _json(text) if text.startswith(opening) else [part.strip() for part in PART.split(text) if part.strip()]
        if isinstance(space, spaces.Dict) and isinstance(parts, list):
            parts = _unique([(key.strip(), value.strip()) for key, _, value in (part.partition(":") for part in parts)])
    if isinstance(space, spaces.Tuple):
        if not is_row(space, parts):
            raise NoAnswer(f"it has {len(parts)}, not {len(space.spaces)} parts" if isinstance(parts, list) else "it is no list of parts")
        return list(parts)
    if not isinstance(parts, dict):
        raise NoAnswer("it is no list of keys and values")
    for key in (*parts, *space.spaces):
        if key not in parts or key not in space.spaces:
            raise NoAnswer(f"{_quoted(key)} is {'missing' if key in space.spaces else 'none of its keys'}")
    return [parts[key] for key in space.spaces]


def _try_split(space: spaces.Dict | spaces.Tuple[Any], text: str) -> list[Any] | None:
    try:
        return _split(space, text)
    except NoAnswer:
        return None


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise NoAnswer(f"it is no JSON: {error}") from None


def _unique(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    parts = dict(pairs)
    if len(parts) < len(pairs):
        raise NoAnswer("it gives a key twice")
    return parts


def _text(part: Any) -> str:
    if not isinstance(part, str):
        raise NoAnswer(f"{_quoted(json.dumps(part))} is neither text nor a number")
    return part


def _flat(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, list):
            yield from _flat(part)
        else:
            yield _text(part)


@lru_cache(maxsize=64)
def _places(names: tuple[str, ...]) -> dict[str, int]:
    return {plain(name): i for i, name in enumerate(names)}


def _choice(space: spaces.Discrete[Any], text: str, names: Names) -> Any:
    word = plain(text)
    place = _places(tuple(names)).get(word)
    if place is None and WHOLE.fullmatch(word):
        place = int(word) - int(space.start)
    if place is None or not 0 <= place < space.n:
        raise NoAnswer(f"{_quoted(text)} does not fit")
    return space.start + space.dtype.type(place)


def _array(space: Space[Any], text: str) -> Any:
    tokens = TOKEN.findall(bare(text))
    low, high = _bounds(space)
    if len(tokens) != len(low):
        raise NoAnswer(f"{_quoted(text)} holds {len(tokens)}, not {len(low)} numbers")
    dtype = np.dtype(space.dtype)
    return np.array([_number(dtype, *each) for each in zip(tokens, low, high, strict=True)], dtype).reshape(space.shape)


def _number(dtype: np.dtype[Any], token: str, low: Any, high: Any) -> Any:
    is_fraction = dtype.kind == "f"
    if not (NUMBER if is_fraction else WHOLE).fullmatch(token):
        raise NoAnswer(f"{_quoted(token)} is no {'number' if is_fraction else 'whole number'}")
    with np.errstate(over="ignore"):
        number = dtype.type(float(token)) if is_fraction else int(token)
    if not (low <= number <= high and math.isfinite(number)):
        raise NoAnswer(f"{_quoted(token)} is out of bounds")
    return number


def _plain_json(space: Space[Any], value: Any, names: Names) -> Any:
    match space:
        case spaces.Dict():
            return {key: _plain_json(space[key], value[key], _below(names, key)) for key in keys(space)}
        case spaces.Tuple():
            return [_plain_json(space[i], value[i], _below(names, i)) for i in keys(space)]
        case spaces.Text() | spaces.Discrete():
            return answer(space, value, names)
        case _:
            return [json.loads(number) for number in answer(space, value).split()]


def _quoted(text: str) -> str:
    return repr(text if len(text) <= QUOTED else f"{text[:QUOTED]}…")


# --- spaces ---


def _below(names: Names, key: Any) -> Names:
    if isinstance(names, Mapping):
        return names.get(key) or ()
    return (names[key] or ()) if names else ()


def _is_nested(space: spaces.Dict | spaces.Tuple[Any]) -> bool:
    return any(isinstance(space[key], spaces.Dict | spaces.Tuple) for key in keys(space))


def _bounds(space: Space[Any]) -> tuple[list[Any], list[Any]]:
    """The lowest and the highest value of each number, row by row."""
    match space:
        case spaces.MultiDiscrete():
            starts = space.start.ravel().tolist()
            return starts, [start + count - 1 for start, count in zip(starts, space.nvec.ravel().tolist(), strict=True)]
        case spaces.Box():
            return list(space.low.ravel()), list(space.high.ravel())
        case _:
            size = math.prod(space.shape or ())
            return [0] * size, [1] * size
