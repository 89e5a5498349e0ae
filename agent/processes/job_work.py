"""What the process of a job has at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from perdure.agent.cluster.judging.errand_play import ErrandMeans
from perdure.agent.cluster.judging.errand_player import ErrandPlayer
from perdure.agent.config import Config
from perdure.agent.processes.pulse import Pulse
from perdure.envs.environment import Environment
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.gate.engine_player import EnginePlayer, LoadedModel
from perdure.learners.gate.player import Player, Sampling
from perdure.learners.learning_job import JobRun, KeepStep, keep_no_step
from perdure.memory.contracts.orders import Job
from perdure.memory.environments import note_code
from perdure.memory.errands.errand_leases import judges_present
from perdure.memory.leases import BootClock
from perdure.memory.records import Lease
from perdure.memory.store import Store
from perdure.memory.trajectories.journal import StoreJournal

SILENCES = 2.0
"""A job plays held-out tasks itself if no player has asked for this many times `cluster.node_timeout_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One attempt at a job."""

    store: Store
    config: Config
    versions: LoadedVersions
    job: Job
    lease: Lease
    pulse: Pulse
    stop: Callable[[], bool]
    keep_step: KeepStep = keep_no_step

    def run(self) -> JobRun:
        """What learners and players write to, and what stops them."""
        return JobRun(
            store=self.store,
            lease=self.lease,
            journal=StoreJournal(self.store, BootClock()),
            stop=self.stop,
            each_round=self.pulse.go_on,
            keep_step=self.keep_step,
        )

    def load(self, name: str) -> Environment:
        """An environment, with its code noted: what was measured with another code does not count."""
        environment = self.config.environment(name)
        note_code(self.store, environment.name, environment.code)
        return environment

    def player(self, purpose: Literal["gate", "probe"], sampling: Sampling) -> Player:
        """Plays held-out tasks, with answers sampled so: here, or by players elsewhere if there are some, or are to be some."""
        load, width, cluster, clock = cache(self.load), self.config.play.width, self.config.cluster, BootClock()
        if (cluster.address and cluster.players) or judges_present(self.store, clock):
            own = ErrandMeans(model=LoadedModel(self.versions), load=load, at_once=width, stop=self.stop, each_round=self.pulse.go_on)
            return ErrandPlayer(
                run=self.run(), own=own, purpose=purpose, sampling=sampling, clock=clock, nobody_s=SILENCES * cluster.node_timeout_s
            )
        return EnginePlayer(
            versions=self.versions,
            run=self.run(),
            load=load,
            purpose=purpose,
            sampling=sampling,
            width=width * sampling.samples,  # the answers to one task share its prompt
        )
