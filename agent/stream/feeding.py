"""The stream of a daemon: its stages, their environments, and the tasks that are queued from them."""

from __future__ import annotations

from dataclasses import replace

from perdure.agent.config import Config
from perdure.agent.stream.registering import measure_new, register_environments
from perdure.agent.stream.task_drawing import begun, refill, stages_of
from perdure.envs.chance import ChanceLevel
from perdure.envs.environment import Environment
from perdure.envs.sandbox.sandbox_loading import without_process
from perdure.memory.environments import list_environments
from perdure.memory.stages import Stage, progress, set_stages
from perdure.memory.store import Store


class StreamFeed:
    """Keeps tasks queued. An environment becomes known to the home when its stage begins (`registering.py`)."""

    def __init__(self, config: Config) -> None:
        """Load the environments of all stages, before anything is written. Raises `InputError` if one of them does not exist."""
        loaded = config.environments(config.stream.names)
        self._config = config
        self._stages = stages_of(config, {name: environment.name for name, environment in loaded.items()})
        self._environments = {environment.name: environment for environment in loaded.values()}
        self._critical = {loaded[name].name for name in config.gate.critical}
        self._measured: dict[str, ChanceLevel] = {}
        self.ended = False
        """Every stage has drawn all its tasks."""

    @property
    def environments(self) -> tuple[str, ...]:
        """The names of the environments of all stages."""
        return tuple(self._environments)

    @property
    def loaded(self) -> tuple[Environment, ...]:
        """The environments of all stages."""
        return tuple(self._environments.values())

    def open(self, store: Store) -> None:
        """Write down the stages, and make the environments known of those that have begun.

        All new ones are measured now, also those of later stages: when a stage begins, nothing is to wait for its environments. After
        that only their descriptions are kept, and their processes end.
        """
        set_stages(store, self._stages)
        self._measured = measure_new(store, list(self._environments.values()))
        self._environments = {name: without_process(environment) for name, environment in self._environments.items()}
        now = {share.name for stage in begun(self._stages, progress(store)) for share in stage.environments}
        now |= {row.name for row in list_environments(store)} & self._environments.keys()
        register_environments(store, [each for name, each in self._environments.items() if name in now], self._critical, self._measured)
        # when a later stage begins, they may have been loaded with other code by other processes
        self._environments = {name: replace(environment, code="") for name, environment in self._environments.items()}

    def refill(self, store: Store, most: int | None) -> None:
        """Queue tasks of environments that are not retired, at most `most` if that is given."""
        retired = {row.name for row in list_environments(store) if row.retired is not None}
        self.ended = refill(
            store,
            [replace(stage, environments=tuple(each for each in stage.environments if each.name not in retired)) for stage in self._stages],
            per_environment=self._config.stream.tasks_per_round,
            root=self._config.seed,
            room=most,
            begin=lambda stage: self._register(store, stage),
        ).ended

    def _register(self, store: Store, stage: Stage) -> None:
        register_environments(store, [self._environments[share.name] for share in stage.environments], self._critical, self._measured)
