"""Names of environments and the options in them: `SOURCE:ID?key=value&key=value`.

A value is read as JSON, and as text if it is not JSON or if the option's default is text. It must have the type of the default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote

from perdure.envs.sources.packages import unknown
from perdure.memory.errors import InputError
from perdure.memory.json_value import JsonObject, JsonValue

OptionValue = JsonValue
Options = Mapping[str, OptionValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of an environment."""

    name: str
    type: str
    """int, float, bool, str, or any: the type of the default."""
    default: OptionValue

    def as_json(self) -> JsonObject:
        return {"name": self.name, "type": self.type, "default": self.default}


def as_options(defaults: Options) -> tuple[Option, ...]:
    """Options by their defaults."""
    return tuple(Option(name=name, type=_type(default), default=default) for name, default in defaults.items())


def parse_options(name: str, query: str, known: Options, open_ended: bool) -> dict[str, OptionValue]:
    """The options that are written in the name of an environment; `known` has the defaults. Raises `InputError` naming the wrong one."""
    return {key: _value(name, key, text, known, open_ended) for key, text in _pairs(name, query)}


def format_options(options: Options) -> str:
    """Options as they are written in a name, without the question mark."""
    return "&".join(f"{key}={_format(value)}" for key, value in options.items())


def with_options(name: str, options: Options) -> str:
    """A name with these options added."""
    query = format_options(options)
    return f"{name}{'&' if '?' in name else '?'}{query}" if query else name


def _type(default: OptionValue) -> str:
    return "any" if default is None else type(default).__name__


def _pairs(name: str, query: str) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise InputError(f"{name}: options are written ?key=value&key=value, not {query!r}") from None
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise InputError(f"{name}: option {key} is given {keys.count(key)} times")
    return pairs


def _value(name: str, key: str, text: str, known: Options, open_ended: bool) -> OptionValue:
    if key not in known and not open_ended:
        raise InputError(f"{name}: {unknown('option', key, known)} Its options are {', '.join(known)}")
    default = known.get(key)
    if isinstance(default, str):
        return text
    value: OptionValue
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        wanted = "true or false" if isinstance(default, bool) else f"of type {_type(default)}"
        raise InputError(f"{name}: option {key}={text} is not {wanted}")
    return value


def _format(value: OptionValue) -> str:
    return quote(value if isinstance(value, str) else json.dumps(value), safe="[]{},:/ ").replace(" ", "+")
