"""Which environments a person may name without loading code that the home does not know.

A name can load code: `py:module:Class`, or a package. At the command line a person may run anything anyway, and the command registers what
it is given. What comes from elsewhere names what is registered in the home, or what stands in the stream of the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.agent.config_file import LoadedConfig
from perdure.agent.stream.own_stream import own_stream
from perdure.memory.environments import list_environments, refuse_retired, require
from perdure.memory.errors import InputError
from perdure.memory.store import Store

MOST_NAMES = 1_000
"""Environments of one request."""


def in_this_home(store: Store, loaded: LoadedConfig, names: Sequence[str]) -> list[str]:
    """The names of these environments as the home has them. One of the stream that is not registered yet is loaded and registered.

    Raises `UnknownError` if it is in neither, and `InputError` if it is retired.
    """
    if len(names) > MOST_NAMES:
        raise InputError(f"{len(names)} environments are named: {MOST_NAMES} at most")
    known = {row.name for row in list_environments(store)}
    new = [name for name in names if name not in known and name in loaded.config.stream.names]
    found = {name: name for name in names}
    if new and own_stream(store.home, loaded) is None:
        from perdure.agent.stream.registering import register_environments

        environments = loaded.config.environments(new)
        register_environments(store, list(environments.values()))
        found |= {name: environment.name for name, environment in environments.items()}
    for name in found.values():
        require(store, name)
        refuse_retired(store, name)
    return list(dict.fromkeys(found[name] for name in names))
