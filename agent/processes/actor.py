"""The process that plays live tasks: `python -m perdure.agent.processes.actor --home DIR [--config FILE]`.

It plays queued tasks with the serving version and journals every turn, in shifts (`live_shift.py`): no task is begun once another version
serves or, if actor and jobs take turns on the device, a process works on a job. On SIGTERM, or when the supervisor is gone, it aborts its
episodes and gives its tasks back. The exit code is 0 if it was asked to stop, else that of its error (`exit_codes.py`). The model only has
to implement `Model`; the loop itself loads no torch.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from perdure.agent.config import Config
from perdure.agent.config_file import load_config
from perdure.agent.processes.child import Stop, child_parser, run_child
from perdure.agent.processes.lease_renewal import holding_device
from perdure.agent.processes.live_desk import LiveDesk
from perdure.agent.processes.live_shift import LivePlay, Model
from perdure.agent.processes.process_names import ACTOR
from perdure.agent.processes.pulse import Pulse
from perdure.envs.rollout import Journal
from perdure.memory.contracts.orders import Job
from perdure.memory.jobs import jobs_at_work
from perdure.memory.leases import TTL_S, BootClock
from perdure.memory.processes import take_device
from perdure.memory.store import Store, open_store
from perdure.memory.tasks import anything_to_play
from perdure.memory.trajectories.journal import StoreJournal

POLL_S = 0.2

OpenModel = Callable[[Store, Config, Callable[[str], None]], Model]
"""Finds and loads the model of a configuration, and makes it the first version if there is none. The last argument gets progress."""

OpenJournal = Callable[[Store], Journal]


def run_actor(home: Path, config_path: Path | None, open_model: OpenModel, open_journal: OpenJournal, stop: Stop) -> None:
    """Play until this process is asked to end."""
    with open_store(home) as store:
        with stop.at_once():  # nothing is being played yet
            actor = Actor(store, load_config(config_path).config, stop, open_journal(store))
            model = actor.start(open_model)
        actor.run(model)


class Actor:
    """The loop of the process. `run` returns when `stop()` has become true."""

    def __init__(self, store: Store, config: Config, stop: Callable[[], bool], journal: Journal) -> None:
        self._store = store
        self._config = config
        self._stop = stop
        self._clock = BootClock()
        self._owner = f"{ACTOR}:{os.getpid()}"
        self._pulse = Pulse(store, ACTOR)
        desk = LiveDesk(store, self._owner, self._clock, lambda: bool(self._jobs()))
        self._live = LivePlay(desk, journal, config, self._pulse.say)

    def start(self, open_model: OpenModel) -> Model:
        """Open the model; `run` plays with it."""
        self._pulse.say("starting", f"looking for the model {self._config.model}")
        return open_model(self._store, self._config, lambda line: self._pulse.say("starting", line))

    def run(self, model: Model) -> None:
        while not self._stop():
            if not self._play_if_free(model):
                time.sleep(POLL_S)
        self._pulse.say("stopped", None)

    def _play_if_free(self, model: Model) -> bool:
        """Play one shift; False if there was no task to play or it is not this process's turn."""
        jobs = self._jobs()
        if jobs:
            self._pulse.say("paused", f"job {jobs[0].id} ({jobs[0].kind}) has the {'CPU' if self._config.device == 'cpu' else 'GPU'}")
            return False
        if not anything_to_play(self._store):
            self._pulse.say("idle", "no task is queued")
            return False
        if not self._config.takes_turns:
            return self._live.play_shift(model, self._stop)
        lease = take_device(self._store, self._owner, TTL_S, self._clock)
        if lease is None:
            self._pulse.say("paused", "another process has the device")
            return False
        lost = threading.Event()
        with holding_device(self._store, lease, lost.set):
            return self._live.play_shift(model, lambda: lost.is_set() or self._stop())

    def _jobs(self) -> list[Job]:
        """The jobs that live play must wait for; none if both may use the device at once."""
        return jobs_at_work(self._store, self._clock) if self._config.takes_turns else []


def open_served(store: Store, config: Config, say: Callable[[str], None]) -> Model:
    """The model that the configuration names, on its engine."""
    from perdure.agent.processes.open_engine import open_engine

    engine = open_engine(store, config, seed=config.seed, say=say)
    from perdure.learners.engines.serving_model import serve  # loads torch, as an engine does

    return serve(store, engine)


def store_journal(store: Store) -> Journal:
    return StoreJournal(store, BootClock())


def main(open_model: OpenModel = open_served, open_journal: OpenJournal = store_journal) -> int:
    given = child_parser("perdure.agent.processes.actor", __doc__).parse_args()
    return run_child(lambda stop: run_actor(given.home, given.config, open_model, open_journal, stop))


if __name__ == "__main__":
    raise SystemExit(main())
