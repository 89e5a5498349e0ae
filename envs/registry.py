"""From the name of an environment to the environment.

    perdure:largest-number?numbers=4      built in (`envs/builtin/`)
    gym:Id-v0 or gym:MODULE:ns/Id-v0      registered with Gymnasium
    textarena:Id                          a TextArena game, for one player or several
    reasoning_gym:dataset                 one question of a Reasoning Gym dataset
    gem:Id                                an environment of GEM
    verifiers:id                          a taskset of verifiers
    openenv:http://host:port              a server that speaks OpenEnv
    py:package.module:Class               a class, or a function that makes one
    plugin:NAME                           what an installed package offers in the entry-point group `perdure.envs`

Options follow as `?key=value&key=value`. They are the keyword arguments of the environment's constructor, with the types of their
defaults, and for every environment those of `COMMON`. Nothing is imported before a name of its source is loaded.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from numbers import Real
from typing import Any, cast
from urllib.parse import parse_qsl, quote

from perdure.envs.builtin import BUILTINS
from perdure.envs.environment import DEFAULT_MAX_TOKENS, DEFAULT_STEP_TIMEOUT_S, DEFAULT_TURN_LIMIT, OBSERVATION, Environment, TextEnv
from perdure.envs.guarded import described
from perdure.envs.sandbox.host import DEFAULT, Sandbox, load_all_apart, load_apart
from perdure.envs.shots import examples, signed
from perdure.envs.sources.packages import PACKAGES, unknown
from perdure.memory.errors import InputError, PerdureError, UnknownError

Value = bool | int | float | str | None
ENTRY_POINTS = "perdure.envs"
MAX_SHOTS = 100

COMMON: dict[str, Value] = {
    "instructions": "",
    "template": OBSERVATION,
    "shots": 0,
    "examples": "",
    "turn_limit": DEFAULT_TURN_LIMIT,
    "max_tokens": DEFAULT_MAX_TOKENS,
    "threshold": 1.0,
    "reward_low": 0.0,
    "reward_high": 1.0,
    "step_timeout_s": DEFAULT_STEP_TIMEOUT_S,
}
"""Options that every environment has. An environment's own attribute of that name is its default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of an environment."""

    name: str
    type: str
    """int, float, bool, str, or any: the type of the default."""
    default: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What there is to know of an environment without loading it."""

    name: str
    summary: str
    options: tuple[Option, ...]
    installed: bool = True
    """Whether the package of its source is."""

    def as_json(self) -> dict[str, Any]:
        options = [{"name": option.name, "type": option.type, "default": option.default} for option in self.options]
        return {"name": self.name, "summary": self.summary, "options": options, "installed": self.installed}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a source has under an id: how to make it, and what may be set."""

    make: Callable[..., TextEnv]
    options: dict[str, Value]
    open_ended: bool = False
    """It takes options that its signature does not name."""
    shared: tuple[str, ...] = ()
    """Options of `COMMON` that `make` takes as well, where they are given."""


def load(name: str, sandbox: Sandbox = DEFAULT) -> Environment:
    """The environment of a name, with its options checked and its solved examples made; in a process of its own unless it is trusted.

    Raises `UnknownError` (no such source or id; names the nearest) and `InputError` (a wrong option).
    """
    _parts(name)
    return load_here(name) if sandbox.trusts(name) else load_apart(name, sandbox)


def load_all(names: Iterable[str], sandbox: Sandbox = DEFAULT) -> dict[str, Environment]:
    """The environments of these names, by name in their order; what has processes of its own is loaded at once. Raises as `load` does."""
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        _parts(name)
    found = {name: load_here(name) for name in wanted if sandbox.trusts(name)}
    found |= load_all_apart([name for name in wanted if name not in found], sandbox)
    return {name: found[name] for name in wanted}


def load_here(name: str) -> Environment:
    """The same in this process, whoever it is."""
    source, id_, query = _parts(name)
    try:
        with redirect_stdout(sys.stderr):  # what a third party prints when it is imported or made
            found = SOURCES[source](id_)
    except PerdureError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{name} cannot be imported: {described(error)}") from error
    known = {**COMMON, **found.options}
    given = {key: _typed(name, key, text, known, found.open_ended) for key, text in _pairs(name, query)}
    if given.get("examples") and "examples" not in found.options:
        given["examples"] = signed(name, str(given["examples"]))
    own = {key: value for key, value in given.items() if key in found.options or key not in COMMON}
    shared = {key: given[key] for key in found.shared if key in given and key not in own}

    def make() -> TextEnv:
        return found.make(**own, **shared)

    traits = _traits(name, make)
    set_: dict[str, Any] = {**traits, **{key: value for key, value in given.items() if key not in own}}
    _check(name, set_)
    defaults = {**traits, **found.options}
    kept = {key: value for key, value in sorted(given.items()) if key not in defaults or defaults[key] != value}
    canonical = f"{source}:{id_}" + ("?" + "&".join(f"{key}={_written(value)}" for key, value in kept.items()) if kept else "")
    shots, file = set_.pop("shots"), set_.pop("examples")
    environment = Environment(name=canonical, make=make, **set_)
    return replace(environment, examples=examples(environment, shots, file))


def _parts(name: str) -> tuple[str, str, str]:
    """Source, id and options of a name."""
    source, _, rest = name.partition(":")
    id_, _, query = rest.partition("?")
    if source not in SOURCES or not id_:
        raise UnknownError(f"no environment is named {name!r}: a name is SOURCE:ID, with a source of {', '.join(sorted(SOURCES))}")
    return source, id_, query


def with_options(name: str, options: Mapping[str, Value]) -> str:
    """A name with these options written into it, besides those that it has."""
    query = "&".join(f"{key}={_written(value)}" for key, value in options.items())
    return f"{name}{'&' if '?' in name else '?'}{query}" if query else name


def builtin_names() -> list[str]:
    """The names of all built-in environments, without options."""
    return [f"perdure:{name}" for name in BUILTINS]


def listings() -> list[Listing]:
    """All built-in environments, the sources that a package is needed for, and all that installed packages offer. None is imported."""
    builtins = [
        Listing(name=f"perdure:{name}", summary=inspect.cleandoc(game.__doc__ or "").split("\n")[0], options=_options(_signature(game)[0]))
        for name, game in BUILTINS.items()
    ]
    sources = [
        Listing(
            name=f"{source}:ID",
            summary=package.summary if package.installed else f"{package.summary}; not installed: {package.remedy}",
            options=(),
            installed=package.installed,
        )
        for source, package in PACKAGES.items()
    ]
    plugins = [Listing(name=f"plugin:{entry.name}", summary=entry.value, options=()) for entry in entry_points(group=ENTRY_POINTS)]
    return builtins + sources + sorted(plugins, key=lambda listing: listing.name)


def common_options() -> tuple[Option, ...]:
    """Options that every environment has beside its own."""
    return _options(COMMON)


def _builtin(id_: str) -> Found:
    if id_ not in BUILTINS:
        raise unknown("built-in environment", f"perdure:{id_}", builtin_names())
    options, _ = _signature(BUILTINS[id_])
    return Found(make=BUILTINS[id_], options=options)


def _python(id_: str) -> Found:
    module, _, attribute = id_.partition(":")
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownError(f"py:{id_} cannot be imported: {error}. It is py:package.module:Class, importable from here") from error
    return _factory(factory)


def _plugin(id_: str) -> Found:
    entries = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if id_ not in entries:
        raise unknown(f"environment of the entry-point group {ENTRY_POINTS}", id_, entries)
    return _factory(entries[id_].load())


def _factory(factory: Callable[..., Any]) -> Found:
    return _read_as_text(factory, *_signature(factory))


def _gymnasium(id_: str) -> Found:
    from perdure.envs.sources.gymnasium import find

    factory, make, defaults = find(id_)
    options, open_ended = _signature(factory)
    return _read_as_text(make, {**options, **defaults}, open_ended)


def _read_as_text(factory: Callable[..., Any], options: dict[str, Value], open_ended: bool) -> Found:
    """What a factory makes, with the options of how its answers are read beside its own."""
    from perdure.envs.sources.gymnasium import OPTIONS, SCALE, as_text

    def make(**given: Any) -> TextEnv:
        reading = {key: given.pop(key) for key in (*OPTIONS, *SCALE) if key in given and key not in options}
        return as_text(factory(**given), **reading)

    return Found(make=make, options={**OPTIONS, **options}, open_ended=open_ended, shared=SCALE)


def _textarena(id_: str) -> Found:
    from perdure.envs.sources.textarena.solo import find

    factory, make, defaults = find(id_)
    options, open_ended = _signature(factory)
    return Found(make=make, options={**options, **defaults}, open_ended=open_ended)


def _reasoning_gym(id_: str) -> Found:
    from perdure.envs.sources.reasoning_gym import find

    make, options = find(id_)
    return Found(make=make, options=options)


def _gem(id_: str) -> Found:
    from perdure.envs.sources.gem import find

    make, options = find(id_)
    return Found(make=make, options=options)


def _verifiers(id_: str) -> Found:
    from perdure.envs.sources.verifiers import find

    make, options = find(id_)
    return Found(make=make, options=options)


def _openenv(id_: str) -> Found:
    from perdure.envs.sources.openenv import find

    make, options = find(id_)
    return Found(make=make, options=options)


SOURCES: Mapping[str, Callable[[str], Found]] = {
    "perdure": _builtin,
    "gym": _gymnasium,
    "textarena": _textarena,
    "reasoning_gym": _reasoning_gym,
    "gem": _gem,
    "verifiers": _verifiers,
    "openenv": _openenv,
    "py": _python,
    "plugin": _plugin,
}


def _signature(factory: Callable[..., Any]) -> tuple[dict[str, Value], bool]:
    """The keyword arguments of a factory with their defaults (None where there is none), and whether it takes any other."""
    parameters = inspect.signature(factory).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    options = {p.name: cast("Value", p.default) if isinstance(p.default, (bool, int, float, str)) else None for p in named}
    return options, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _options(defaults: Mapping[str, Value]) -> tuple[Option, ...]:
    return tuple(Option(name=name, type=_type(default), default=default) for name, default in defaults.items())


def _type(default: Value) -> str:
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


def _typed(name: str, key: str, text: str, known: Mapping[str, Value], open_ended: bool) -> Value:
    if key not in known and not open_ended:
        raise InputError(f"{name}: {unknown('option', key, known)} Its options are {', '.join(known)}")
    default = known.get(key)
    if isinstance(default, str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if default is None:
        return cast("Value", value)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        wanted = "true or false" if isinstance(default, bool) else f"of type {_type(default)}"
        raise InputError(f"{name}: option {key}={text} is not {wanted}")
    return cast("Value", value)


def _written(value: Value) -> str:
    return quote(value if isinstance(value, str) else json.dumps(value), safe="[]{},:/ ").replace(" ", "+")


def _traits(name: str, make: Callable[[], TextEnv]) -> dict[str, Value]:
    """What an environment says of itself, with the defaults of `COMMON` for the rest; makes one, which also checks its options."""
    try:
        with redirect_stdout(sys.stderr):
            env = make()
    except PerdureError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{name} cannot be made: {described(error)}") from error
    try:
        own = env.unwrapped
        traits = {key: getattr(own, key, default) for key, default in COMMON.items()}
        return {**traits, "opponent": str(getattr(own, "opponent", "serving"))}
    finally:
        with redirect_stdout(sys.stderr), suppress(Exception, SystemExit):  # `env check` tells of it
            env.close()


def _check(name: str, traits: Mapping[str, Any]) -> None:
    for key in ("instructions", "template", "examples"):
        if not isinstance(traits[key], str):
            raise InputError(f"{name}: {key}={traits[key]!r} must be text")
    if OBSERVATION not in traits["template"]:
        raise InputError(f"{name}: template={traits['template']!r} must contain {OBSERVATION}, where the first observation is put")
    for key, lowest, highest in (("shots", 0, MAX_SHOTS), ("turn_limit", 1, 2**31), ("max_tokens", 1, 2**31)):
        if type(traits[key]) is not int or not lowest <= traits[key] <= highest:
            raise InputError(f"{name}: {key}={traits[key]!r} must be a whole number from {lowest} to {highest}")
    for key in ("threshold", "reward_low", "reward_high", "step_timeout_s"):
        if not isinstance(traits[key], Real) or not math.isfinite(traits[key]):
            raise InputError(f"{name}: {key}={traits[key]!r} must be a finite number")
    if not traits["reward_low"] < traits["reward_high"]:
        raise InputError(f"{name}: reward_low={traits['reward_low']} must be below reward_high={traits['reward_high']}")
    if not traits["step_timeout_s"] > 0:
        raise InputError(f"{name}: step_timeout_s={traits['step_timeout_s']} must be above 0")
