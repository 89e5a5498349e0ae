"""How environments become known to a home: in one way for the daemon, for commands and for benchmarks.

A home replays and judges what it knows. So the environments of a stage become known when the stage begins, and not before: they are to come
as something new. Left out: what the store keeps of an environment (`memory/environments.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from perdure.envs.environment import Environment
from perdure.memory.environments import list_environments, register
from perdure.memory.store import Store


def register_environments(store: Store, environments: Sequence[Environment], critical: Collection[str] | None = None) -> list[str]:
    """Make environments known with their present settings, all or none; gives their names.

    `critical` names those with the tighter margin. If it is None, as for a caller that does not know, those that are critical stay so.
    """
    with store.write():
        if critical is None:
            critical = {row.name for row in list_environments(store) if row.critical}
        for environment in environments:
            name = environment.name
            register(store, name, environment.threshold, environment.reward_low, environment.reward_high, name in critical)
    return [environment.name for environment in environments]
