"""Perdure: a runtime for agents that learn from their own work and do not forget.

What is named here is what users import; every deeper path may move. A name is loaded when it is first used, so that importing
`perdure` loads neither torch nor gymnasium.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.envs.environment import AnyText, Environment, TextEnv
    from perdure.envs.playing import Attempt
    from perdure.envs.policy import Chat, Message, Policy, PolicyError, Request, Sample
    from perdure.envs.registry import load
    from perdure.envs.rollout import Journal, play
    from perdure.envs.seeds import split_by_content, split_of
    from perdure.memory.errors import InputError, PerdureError, RuntimeFailure, UnknownError
    from perdure.memory.records import Ending, Episode, EpisodePlan, Lease, Sampler, Turn, VersionRef
    from perdure.memory.store import Store, open_store

__version__ = "0.1.0"

__all__ = [
    "AnyText",
    "Attempt",
    "Chat",
    "Ending",
    "Environment",
    "Episode",
    "EpisodePlan",
    "InputError",
    "Journal",
    "Lease",
    "Message",
    "PerdureError",
    "Policy",
    "PolicyError",
    "Request",
    "RuntimeFailure",
    "Sample",
    "Sampler",
    "Store",
    "TextEnv",
    "Turn",
    "UnknownError",
    "VersionRef",
    "__version__",
    "load",
    "open_store",
    "play",
    "split_by_content",
    "split_of",
]

_MODULES = {
    "perdure.envs.environment": ("AnyText", "Environment", "TextEnv"),
    "perdure.envs.playing": ("Attempt",),
    "perdure.envs.policy": ("Chat", "Message", "Policy", "PolicyError", "Request", "Sample"),
    "perdure.envs.registry": ("load",),
    "perdure.envs.rollout": ("Journal", "play"),
    "perdure.envs.seeds": ("split_by_content", "split_of"),
    "perdure.memory.errors": ("InputError", "PerdureError", "RuntimeFailure", "UnknownError"),
    "perdure.memory.records": ("Ending", "Episode", "EpisodePlan", "Lease", "Sampler", "Turn", "VersionRef"),
    "perdure.memory.store": ("Store", "open_store"),
}


def __dir__() -> list[str]:
    return __all__


if not TYPE_CHECKING:  # a type checker reads the imports above; with this function it would take every other name too

    def __getattr__(name: str) -> object:
        from importlib import import_module

        for module, names in _MODULES.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
