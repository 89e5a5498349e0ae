"""The result of looking up an id in a source: how to make the environment, and its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from perdure.envs.environment import TextEnv
from perdure.envs.environment_names import Options, OptionValue


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentFactory:
    """How to make an environment, and which options it takes."""

    make: Callable[..., TextEnv]
    """Takes the options as keyword arguments."""
    options: Options
    """By name, with their defaults; None if an option has no default, or one that cannot be written in a name."""
    open_ended: bool = False
    """Whether `make` takes other options too."""
    shared: tuple[str, ...] = ()
    """Common options that `make` takes as well, if they are given."""
    code: str = ""
    """What the code of the environment is (`source_code.py`); empty: not known."""


def signature_options(function: Callable[..., Any]) -> tuple[Options, bool]:
    """The keyword arguments of a function as options, and whether it takes any other."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: plain_default(p.default) for p in named}, any(p.kind is p.VAR_KEYWORD for p in parameters)


def plain_default(value: object) -> OptionValue:
    """The default of an option; None if it is not a number, a truth value or text."""
    return value if isinstance(value, bool | int | float | str) else None


def registered_default(value: object) -> OptionValue:
    """The same, but lists and dictionaries are kept too, and a tuple is written as a list."""
    if isinstance(value, tuple):
        return list(value)
    return cast("OptionValue", value) if isinstance(value, list | dict) else plain_default(value)
