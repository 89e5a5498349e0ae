"""Which of Gymnasium's spaces can be text, and their observations written out.

`Text` and other spaces of strings, `Discrete`, `MultiDiscrete`, `MultiBinary` and `Box`, and `Dict` and `Tuple` of these, nested too, with
at most `MOST_NUMBERS` numbers in all. `refuse` gives the reason for any other. Answers are read by `envs/sources/actions.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from perdure.envs.sources.ansi import unescaped
from perdure.memory.errors import InputError

MOST_NUMBERS = 160
"""An observation or an answer with more numbers is too long for a language model, such as an image."""
TEXT_NUMBERS = 4


def refuse(space: Space[Any], owner: object, what: str) -> None:
    """Raises `InputError` if values of a space cannot be text. `what` is 'actions' or 'observations' of the owner."""
    reason = _obstacle(space)
    if reason is None and count_numbers(space) > MOST_NUMBERS:
        reason = f"{count_numbers(space)} numbers in a {type(space).__name__} are too many: at most {MOST_NUMBERS} are shown as text"
    if reason is not None:
        raise InputError(
            f"{owner} has {what} that cannot be text: {reason}. Write a class with text on both sides and name it py:package.module:Class"
        )


def count_numbers(space: Space[Any]) -> int:
    """How many numbers a value has; a text counts for `TEXT_NUMBERS`."""
    match space:
        case spaces.Dict() | spaces.Tuple():
            return sum(count_numbers(space[key]) for key in keys(space))
        case _ if says_text(space):
            return TEXT_NUMBERS
        case _:
            return math.prod(space.shape or ())


def written(space: Space[Any], value: Any, parts: Sequence[str] = ()) -> str:
    """An observation as text; `parts` names the parts of a tuple. Raises `TypeError` if it is not a value of this kind of space."""
    if isinstance(space, spaces.Discrete):
        return f"state {_shown(space, value)}"
    lines = list(_lines(space, value, "", parts))
    if isinstance(space, spaces.Tuple) and not parts and not any("\n" in text or "." in path for path, text in lines):
        return "; ".join(text for _, text in lines)
    return "\n".join(text if not path else f"{path}:\n{text}" if "\n" in text else f"{path}: {text}" for path, text in lines)


# --- what can be text ---


def _obstacle(space: Space[Any]) -> str | None:
    match space:
        case spaces.Dict() | spaces.Tuple():
            if isinstance(space, spaces.Dict) and not all(isinstance(key, str) for key in space.spaces):
                return f"{space} has keys that are not text"
            return next((reason for key in keys(space) if (reason := _obstacle(space[key]))), None)
        case spaces.Text() | spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary() | spaces.Box():
            return None
        case _ if says_text(space):
            return None
        case _:
            return f"a {type(space).__name__} has no fixed form"


def says_text(space: Space[Any]) -> bool:
    """Whether its values are text: Gymnasium's own, or a space of another package for strings, such as the missions of minigrid."""
    return isinstance(space, spaces.Text) or (space.dtype is not None and space.dtype.kind == "U")


def keys(space: spaces.Dict | spaces.Tuple[Any]) -> Sequence[Any]:
    """The keys of a composed space, or places from 0."""
    return list(space.spaces) if isinstance(space, spaces.Dict) else range(len(space.spaces))


# --- observations ---


def _lines(space: Space[Any], value: Any, path: str, parts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The text of each basic part, with its path: keys, and places from 1."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        yield path, _shown(space, value)
        return
    fits = isinstance(value, Mapping) and value.keys() == space.spaces.keys() if isinstance(space, spaces.Dict) else is_row(space, value)
    if not fits:
        raise _misfit(space, value)
    for key in keys(space):
        name = key if isinstance(key, str) else parts[key] if key < len(parts) else str(key + 1)
        yield from _lines(space[key], value[key], f"{path}.{name}" if path else name, ())


def is_row(space: spaces.Tuple[Any], value: Any) -> bool:
    """Whether a value has a part for each part of a `Tuple`."""
    return isinstance(value, tuple | list) and len(value) == len(space.spaces)


def _shown(space: Space[Any], value: Any) -> str:
    if says_text(space):
        if not isinstance(value, str):
            raise _misfit(space, value)
        return unescaped(value)
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "biuf" or numbers.shape != space.shape:
        raise _misfit(space, value)
    return _rows(numbers)


def _rows(numbers: np.ndarray[Any, Any]) -> str:
    """Numbers with spaces between them, a line for each row, an empty line between tables."""
    if numbers.ndim < 2:
        return " ".join(map(short, numbers.ravel().tolist()))
    return ("\n" * (numbers.ndim - 1)).join(map(_rows, numbers))


def short(number: float) -> str:
    """A number with four digits: they are enough to act on, and each costs tokens."""
    if not isinstance(number, float):
        return str(int(number))
    return f"{number:.0f}" if 1e4 <= abs(number) < 1e15 else f"{number + 0.0:.4g}"  # -0.0 is 0


def _misfit(space: Space[Any], value: Any) -> TypeError:
    actual = f"an array of {value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    return TypeError(f"the observation space has {type(space).__name__} of shape {space.shape}, but the observation has {actual}")
