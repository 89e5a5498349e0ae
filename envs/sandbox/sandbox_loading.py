"""Environments in processes of their own: one that hangs, crashes or does worse ends its episode and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from perdure.envs.environment import Environment, TextEnv
from perdure.envs.sandbox.description import read_description
from perdure.envs.sandbox.host import Host
from perdure.envs.sandbox.host_messages import LoadFailure
from perdure.envs.sandbox.remote import RemoteEnv
from perdure.envs.sandbox.sandbox_settings import Sandbox
from perdure.envs.sandbox.wire import WireDocumentError
from perdure.memory.errors import InputError, UnknownError
from perdure.memory.json_value import JsonObject


def load_sandboxed(name: str, sandbox: Sandbox) -> Environment:
    """The environment of a name, in a process of its own, which ends when no reference to the environment is left.

    Raises `UnknownError` and `InputError` as `registry.py:load_here` does.
    """
    return start_sandboxed(name, sandbox)[0]


def load_all_sandboxed(names: Sequence[str], sandbox: Sandbox) -> dict[str, Environment]:
    """Several, by name. Their processes import at the same time: each takes up to a second. Raises as `load_sandboxed` does."""
    hosts: dict[str, Host] = {}
    try:
        for name in names:
            host = Host(name, sandbox, hash_seed=0)
            host.launch()
            hosts[name] = host
        return {name: _environment(host, name, host.description()) for name, host in hosts.items()}
    except BaseException:
        for host in hosts.values():
            host.abandon()
        raise


def start_sandboxed(name: str, sandbox: Sandbox, hash_seed: int = 0) -> tuple[Environment, Host]:
    """The environment with its process, for a caller that needs more than episodes.

    The hashes of strings are those of `hash_seed`, so that an environment that iterates over a set is the same in every process.
    """
    host = Host(name, sandbox, hash_seed)
    return _environment(host, name, host.start()), host


def without_process(environment: Environment) -> Environment:
    """The description of an environment alone: it cannot be played, and its process can end."""
    return replace(environment, make=_refuse, open_remote=None)


def _environment(host: Host, name: str, description: JsonObject | LoadFailure) -> Environment:
    if isinstance(description, LoadFailure):
        raise (UnknownError if description.unknown else InputError)(description.reason)
    try:
        environment = read_description(description, host.refuse, partial(RemoteEnv, host))
    except WireDocumentError as wrong:
        host.close()
        raise InputError(f"{name} cannot be loaded: its process sent an unreadable description of the environment ({wrong})") from wrong
    if environment.name.partition("?")[0] != name.partition("?")[0]:
        host.close()
        raise InputError(f"{name} cannot be loaded: its process described another environment, {environment.name!r:.80}")
    host.limit_s, host.code = environment.step_timeout_s, environment.code
    return environment


def _refuse() -> TextEnv:
    raise InputError("only the description of this environment was loaded: load the environment to play it")
