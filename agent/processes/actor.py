"""The process that plays live tasks: `python -m perdure.agent.processes.actor --home DIR [--config FILE]`.

It plays queued tasks with the serving version and journals every turn. A free place is taken by the next task, so that generation stays
full. A shift is what one version plays: no task is begun once another version serves or, if actor and jobs take turns on the device, a
process works on a job. The tasks that were begun are played to their end; then comes the next version, or the job. On SIGTERM, or when the
supervisor is gone, it aborts its episodes and gives its tasks back. The exit code is 0 if it was asked to stop, else that of its error
(`exit_codes.py`). The model only has to implement `Model`; the loop itself loads no torch.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from perdure.agent.config import Config
from perdure.agent.config_file import load_config
from perdure.agent.processes.child import Stop, child_parser, run_child
from perdure.agent.processes.lease_renewal import holding_device
from perdure.agent.processes.process_names import ACTOR
from perdure.agent.processes.pulse import BEAT_S, Pulse
from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.policy import Chat, Policy, PolicyError
from perdure.envs.rollout import Journal, play
from perdure.memory.contracts.orders import Job
from perdure.memory.environments import code_of_environment, note_code
from perdure.memory.errors import LeaseLost, RuntimeFailure, Unavailable
from perdure.memory.jobs import jobs_at_work
from perdure.memory.leases import TTL_S, BootClock
from perdure.memory.processes import take_device
from perdure.memory.records import Episode, Lease, Task, VersionRef
from perdure.memory.store import Store, open_store
from perdure.memory.tasks import anything_to_play, finish_task, lease_tasks, release_task, retry_task
from perdure.memory.trajectories.episodes import completed_members
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.versions import serving

POLL_S = 0.2


class Model(Protocol):
    """What the actor needs of a model; the real one is in `learners/engines/serving_model.py`."""

    @property
    def chat(self) -> Chat: ...

    @property
    def context_limit(self) -> int: ...

    def load(self, version: str) -> Policy:
        """The policy of this version; unloads the previous one. Raises `RuntimeFailure` if the version's files are missing or damaged."""
        ...

    def opponent(self, version: str) -> Policy:
        """The policy of this version, beside the one that plays. Raises `UnknownError`, and `RuntimeFailure` as `load` does."""
        ...


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
        self._journal = journal
        self._clock = BootClock()
        self._owner = f"{ACTOR}:{os.getpid()}"
        self._pulse = Pulse(store, ACTOR)
        self._environments: dict[str, Environment] = {}
        self._loaded: tuple[VersionRef, Policy] | None = None

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
            return self._play_shift(model, self._stop)
        lease = take_device(self._store, self._owner, TTL_S, self._clock)
        if lease is None:
            self._pulse.say("paused", "another process has the device")
            return False
        lost = threading.Event()
        with holding_device(self._store, lease, lost.set):
            return self._play_shift(model, lambda: lost.is_set() or self._stop())

    def _play_shift(self, model: Model, stop: Callable[[], bool]) -> bool:
        """Play tasks with the serving version until the shift ends; False if none was begun.

        Whatever happens, each task is finished, given back, or tried again up to its cap.
        """
        version, policy = self._load_serving(model)
        shift = _Shift(version=version, separate=model.chat.separate)
        try:
            play(
                self._draw(shift),
                policy,
                model.chat,
                version,
                self._journal,
                temperature=self._config.play.temperature,
                width=self._config.play.width,
                context_limit=model.context_limit,
                stop=stop,
                each_round=lambda: self._report(shift),
                on_finish=lambda episode: self._note_end(shift.groups, episode),
                opponents=lambda name: (version, policy) if name == "serving" else (VersionRef(name), model.opponent(name)),
            )
        except LeaseLost:  # another process has one of the tasks; the others are given back
            pass
        except Unavailable:  # a full disk, not the fault of the tasks: the supervisor gives them back when this process is dead
            raise
        except (PolicyError, RuntimeFailure) as error:
            for group in shift.groups.values():
                with suppress(LeaseLost):
                    retry_task(self._store, group.lease, str(error))
            raise
        self._give_back(shift.groups)
        return shift.tasks > 0

    def _draw(self, shift: _Shift) -> Iterator[Attempt | None]:
        """The members of one task after the other until the shift ends; None if there is nothing to begin at the moment.

        A task is leased when its first member has a place, and its members come before the next task: the turns of the members in play
        extend its lease.
        """
        while not self._ends(shift):
            attempts: list[Attempt | None] = [None]
            for task, lease in lease_tasks(self._store, self._owner, 1, TTL_S, self._clock):
                shift.tasks += 1
                self._report(shift)
                # None if the task has nothing to play: `play` then makes a round before the next task is tried
                attempts = [*self._attempts(task, lease, shift.groups)] or [None]
            yield from attempts

    def _ends(self, shift: _Shift) -> bool:
        """Whether no other task may be begun with this version, or on this device."""
        return serving(self._store).name != shift.version.name or bool(self._jobs())

    def _jobs(self) -> list[Job]:
        """The jobs that live play must wait for; none if both may use the device at once."""
        return jobs_at_work(self._store, self._clock) if self._config.takes_turns else []

    def _load_serving(self, model: Model) -> tuple[VersionRef, Policy]:
        """The serving version and its policy, which is loaded if the version has changed."""
        version = VersionRef(serving(self._store).name)
        if self._loaded is None or self._loaded[0] != version:
            self._pulse.say("loading", f"the weights of {version}")
            self._loaded = version, model.load(version.name)
        return self._loaded

    def _report(self, shift: _Shift) -> None:
        """Say what is played; only every few seconds, since each time is a write."""
        if shift.tasks and time.monotonic() - shift.reported_s > BEAT_S:
            turns = "; each turn is a sequence of its own" if shift.separate else ""
            detail = f"with {shift.version}, up to {self._config.play.width} episodes at once{turns}; tasks so far: {shift.tasks}"
            self._pulse.say("playing", detail)
            shift.reported_s = time.monotonic()

    def _attempts(self, task: Task, lease: Lease, groups: dict[int, _Group]) -> list[Attempt]:
        """The members of a task that are not completed yet. The task ends here if none is left or its environment cannot be made."""
        name = f"task-{task.id}"
        done = completed_members(self._store, [name])[name]
        members = [member for member in range(task.members) if member not in done]
        if not members:
            finish_task(self._store, lease)
            return []
        try:
            environment = self._environment(task.environment)
        except Unavailable:  # it has other code now than this process has imported
            raise
        except Exception as error:  # noqa: BLE001 - an operator's environment may raise anything; the task is written down as failed
            retry_task(self._store, lease, f"{task.environment} cannot be made: {error}")
            return []
        groups[task.id] = _Group(task=task, lease=lease, left=len(members), completed=len(done))
        return [
            Attempt(environment=environment, seed=task.seed, group=name, member=member, purpose="live", lease=lease) for member in members
        ]

    def _environment(self, name: str) -> Environment:
        """An environment, loaded unless it is already; loaded anew if another process has found its code changed."""
        loaded = self._environments.get(name)
        if loaded is None or (loaded.code and code_of_environment(self._store, name) not in (None, loaded.code)):
            self._environments.pop(name, None)
            loaded = self._config.environment(name)
            note_code(self._store, name, loaded.code)
            self._environments[name] = loaded
        return loaded

    def _note_end(self, groups: dict[int, _Group], episode: Episode) -> None:
        """Note the end of an episode. The task ends with the last episode of its group."""
        assert episode.task is not None, "live episodes belong to a task"
        group = groups[episode.task]
        group.left -= 1
        group.completed += episode.state == "completed"
        group.interrupted |= episode.state == "aborted"
        group.error = episode.error or group.error
        if group.left or group.interrupted:  # an interrupted group stays in `groups`, so that `_give_back` releases its task
            return
        if group.completed:
            finish_task(self._store, group.lease)
        else:
            self._environments.pop(group.task.environment, None)  # it may work if it is loaded anew
            retry_task(self._store, group.lease, group.error or "the environment failed in every episode")
        del groups[group.task.id]

    def _give_back(self, groups: dict[int, _Group]) -> None:
        for group in groups.values():
            with suppress(LeaseLost):
                release_task(self._store, group.lease)


@dataclass(slots=True, kw_only=True)
class _Shift:
    """What one version plays, until another one serves or a job needs the device."""

    version: VersionRef
    separate: bool
    """Whether each turn is a sequence of its own."""
    groups: dict[int, _Group] = field(default_factory=dict)
    """By task: those that are being played."""
    tasks: int = 0
    """How many were begun."""
    reported_s: float = -math.inf
    """When it was last reported, on the monotonic clock."""


@dataclass(slots=True, kw_only=True)
class _Group:
    """The episodes of one task that are still to be played."""

    task: Task
    lease: Lease
    left: int
    completed: int
    interrupted: bool = False
    error: str = ""


def open_served(store: Store, config: Config, say: Callable[[str], None]) -> Model:
    """The model that the configuration names, on its engine."""
    from perdure.agent.processes.open_engine import open_engine
    from perdure.learners.engines.serving_model import serve

    return serve(store, open_engine(store, config, seed=config.seed, say=say))


def store_journal(store: Store) -> Journal:
    return StoreJournal(store, BootClock())


def main(open_model: OpenModel = open_served, open_journal: OpenJournal = store_journal) -> int:
    given = child_parser("perdure.agent.processes.actor", __doc__).parse_args()
    return run_child(lambda stop: run_actor(given.home, given.config, open_model, open_journal, stop))


if __name__ == "__main__":
    raise SystemExit(main())
