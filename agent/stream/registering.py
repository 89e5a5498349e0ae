"""How environments become known to a home: in one way for the daemon, for commands and for benchmarks.

A home replays and judges what it knows. So the environments of a stage become known when the stage begins, and not before: they are to come
as something new. What a new one pays for no skill is measured once, before. Left out: what the store keeps of an environment
(`memory/environments.py`), and the measurement (`envs/chance.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from perdure.envs.chance import ChanceLevel, measure_chance
from perdure.envs.environment import Environment
from perdure.memory.environments import list_environments, note_code, register, set_measured
from perdure.memory.store import Store


def register_environments(
    store: Store,
    environments: Sequence[Environment],
    critical: Collection[str] | None = None,
    measured: Mapping[str, ChanceLevel] | None = None,
) -> list[str]:
    """Make environments known with their present settings, all or none; gives their names.

    `critical` names those with the tighter margin. If it is None, as for a caller that does not know, those that are critical stay so.
    `measured` is what `measure_new` gave; None: it is measured now, before anything is written, so the environments must be playable.
    What was loaded with other code than before begins anew (`memory/environments.py:note_code`): they must have been loaded just now.
    """
    if measured is None:
        measured = measure_new(store, environments)
    with store.write():
        known = list_environments(store)
        if critical is None:
            critical = {row.name for row in known if row.critical}
        new = {environment.name for environment in environments} - {row.name for row in known}
        for environment in environments:
            name = environment.name
            scale = environment.threshold, environment.reward_low, environment.reward_high
            register(store, name, *scale, name in critical, environment.code or None)
            recoded = note_code(store, name, environment.code)
            if (name in new or recoded) and (level := measured.get(name)) is not None:
                set_measured(store, name, level.success, level.oracle)
    return [environment.name for environment in environments]


def measure_new(store: Store, environments: Sequence[Environment]) -> dict[str, ChanceLevel]:
    """What those of the environments pay for no skill that the home does not know, or with other code. Each takes a second at most."""
    known = {row.name: row.code for row in list_environments(store)}

    def is_new(environment: Environment) -> bool:
        return environment.name not in known or bool(environment.code and known[environment.name] not in (None, environment.code))

    return {environment.name: measure_chance(environment) for environment in environments if is_new(environment)}
