"""From the name of an environment to the environment.

    perdure:largest-number?numbers=4      built in (`envs/builtin/`)
    gym:Id-v0 or gym:MODULE:ns/Id-v0      registered with Gymnasium
    textarena:Id                          a TextArena game, for one player or for several
    reasoning_gym:dataset                 one question of a Reasoning Gym dataset
    gem:Id                                an environment of GEM
    verifiers:id                          a taskset of verifiers
    openenv:http://host:port              a server that speaks OpenEnv
    py:package.module:Class               a class, or a function that makes one
    plugin:NAME                           offered by an installed package in the entry-point group `perdure.envs`

Options follow as `?key=value&key=value` (`environment_names.py`). They are the keyword arguments of the constructor, and for every
environment those of `common_options.py`. A source is imported when a name of it is loaded, not before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from perdure.envs import builtin
from perdure.envs.builtin import BUILTINS
from perdure.envs.common_options import COMMON, check_common, own_defaults
from perdure.envs.environment import Environment, TextEnv
from perdure.envs.environment_names import format_options, parse_options
from perdure.envs.guarded import describe_error
from perdure.envs.listings import ENTRY_POINTS, builtin_names
from perdure.envs.sandbox.sandbox_loading import load_all_sandboxed, load_sandboxed
from perdure.envs.sandbox.sandbox_settings import DEFAULT, Sandbox
from perdure.envs.shots import hashed_path, solved_examples
from perdure.envs.source_code import code_of, code_of_folder, version_of
from perdure.envs.sources.factory import EnvironmentFactory, signature_options
from perdure.envs.sources.packages import PACKAGES, unknown
from perdure.memory.errors import InputError, PerdureError, UnknownError


def load(name: str, sandbox: Sandbox = DEFAULT) -> Environment:
    """The environment of a name, with its options checked and its solved examples made; in a process of its own unless it is trusted.

    Raises `UnknownError` (no such source or id; names the nearest) and `InputError` (a wrong option).
    """
    _split(name)
    return load_here(name) if sandbox.trusts(name) else load_sandboxed(name, sandbox)


def load_all(names: Iterable[str], sandbox: Sandbox = DEFAULT) -> dict[str, Environment]:
    """The environments of these names, by name in their order; those with processes of their own are loaded at once. Raises as `load`."""
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        _split(name)
    loaded = {name: load_here(name) for name in wanted if sandbox.trusts(name)}
    loaded |= load_all_sandboxed([name for name in wanted if name not in loaded], sandbox)
    return {name: loaded[name] for name in wanted}


def load_here(name: str) -> Environment:
    """The same in this process, trusted or not."""
    source, id_, query = _split(name)
    try:
        with redirect_stdout(sys.stderr):  # foreign code may print when it is imported or made
            factory = SOURCES[source](id_)
    except PerdureError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{name} cannot be imported: {describe_error(error)}") from error
    given = parse_options(name, query, {**COMMON, **factory.options}, factory.open_ended)
    if given.get("examples") and "examples" not in factory.options:
        given["examples"] = hashed_path(name, str(given["examples"]))
    own = {key: value for key, value in given.items() if key in factory.options or key not in COMMON}
    shared = {key: given[key] for key in factory.shared if key in given and key not in own}

    def make() -> TextEnv:
        return factory.make(**own, **shared)

    env = _made(name, make)
    try:
        traits = own_defaults(env.unwrapped)
        opponent = str(getattr(env.unwrapped, "opponent", "serving"))
    finally:
        with redirect_stdout(sys.stderr), suppress(Exception, SystemExit):  # `env check` reports it
            env.close()
    common = check_common(name, {**traits, **{key: value for key, value in given.items() if key not in own}})
    defaults = {**traits, **factory.options}
    kept = {key: value for key, value in sorted(given.items()) if key not in defaults or defaults[key] != value}
    environment = Environment(
        name=f"{source}:{id_}" + (f"?{format_options(kept)}" if kept else ""),
        make=make,
        instructions=common.instructions,
        template=common.template,
        threshold=common.threshold,
        reward_low=common.reward_low,
        reward_high=common.reward_high,
        turn_limit=common.turn_limit,
        max_tokens=common.max_tokens,
        step_timeout_s=common.step_timeout_s,
        opponent=opponent,
        code=factory.code or (version_of(PACKAGES[source].distribution) if source in PACKAGES else ""),
    )
    return replace(environment, examples=solved_examples(environment, common.shots, common.examples))


def _split(name: str) -> tuple[str, str, str]:
    """Source, id and options of a name."""
    source, _, rest = name.partition(":")
    id_, _, query = rest.partition("?")
    if source not in SOURCES or not id_:
        raise UnknownError(f"no environment is named {name!r}: a name is SOURCE:ID, with a source of {', '.join(sorted(SOURCES))}")
    return source, id_, query


def _made(name: str, make: Callable[[], TextEnv]) -> TextEnv:
    """A first one, which also checks the options."""
    try:
        with redirect_stdout(sys.stderr):
            return make()
    except PerdureError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{name} cannot be made: {describe_error(error)}") from error


def _builtin(id_: str) -> EnvironmentFactory:
    if id_ not in BUILTINS:
        raise unknown("built-in environment", f"perdure:{id_}", builtin_names())
    game = BUILTINS[id_]
    options, _ = signature_options(game)
    return EnvironmentFactory(make=game, options=options, code=code_of_folder(game.__module__, Path(builtin.__file__).parent.absolute()))


def _python(id_: str) -> EnvironmentFactory:
    module, _, attribute = id_.partition(":")
    if not attribute:
        before, _, last = module.rpartition(".")
        nearest = f"py:{before}:{last}" if before else f"py:{module}:CLASS"
        raise UnknownError(f"py:{id_} cannot be imported: it names no class. Write two colons: {nearest}")
    try:
        make = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownError(f"py:{id_} cannot be imported: {error}. It is py:package.module:Class, importable from here") from error
    return _callable(make, module)


def _plugin(id_: str) -> EnvironmentFactory:
    entries = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if id_ not in entries:
        raise unknown(f"environment of the entry-point group {ENTRY_POINTS}", id_, entries)
    return _callable(entries[id_].load(), entries[id_].module)


def _callable(make: Callable[..., Any], module: str) -> EnvironmentFactory:
    """What an attribute of this module makes."""
    from perdure.envs.sources.gymnasium import text_factory

    return replace(text_factory(make, *signature_options(make)), code=code_of(module, str(getattr(make, "__module__", module))))


def _gymnasium(id_: str) -> EnvironmentFactory:
    from perdure.envs.sources.gymnasium import find

    return find(id_)


def _textarena(id_: str) -> EnvironmentFactory:
    from perdure.envs.sources.textarena.solo import find

    return find(id_)


def _reasoning_gym(id_: str) -> EnvironmentFactory:
    from perdure.envs.sources.reasoning_gym import find

    return find(id_)


def _gem(id_: str) -> EnvironmentFactory:
    from perdure.envs.sources.gem import find

    return find(id_)


def _verifiers(id_: str) -> EnvironmentFactory:
    from perdure.envs.sources.verifiers import find

    return find(id_)


def _openenv(id_: str) -> EnvironmentFactory:
    from perdure.envs.sources.openenv import find

    return find(id_)


SOURCES: Mapping[str, Callable[[str], EnvironmentFactory]] = {
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
