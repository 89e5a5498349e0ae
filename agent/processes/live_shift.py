"""One shift of live play: what one version plays, until another one serves or the process has to end. Actor and remote players share it.

A free place is taken by the next task, so that generation stays full. The tasks that were begun are played to their end. Where tasks come
from, and where their results go, is a `TaskDesk`: the store of this machine (`live_desk.py`), or the journal of another
(`agent/cluster/playing/remote_desk.py`). Left out: when a shift may begin (`actor.py`, `agent/cluster/playing/remote_player.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from perdure.agent.config import Config
from perdure.agent.processes.pulse import BEAT_S
from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.policy import Chat, Policy, PolicyError
from perdure.envs.rollout import Journal, play
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure, Unavailable
from perdure.memory.records import Episode, Lease, Task, VersionRef


class Model(Protocol):
    """What live play needs of a model; the real one is in `learners/engines/serving_model.py`."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedTask:
    """A task that this process may play."""

    task: Task
    lease: Lease
    done: Set[int]
    """Its members that are completed already."""
    code: str | None
    """What the code of its environment is, as the home knows it; None: not known."""


class TaskDesk(Protocol):
    """Where a process gets its tasks, and where it brings them back."""

    def serving(self) -> VersionRef:
        """The version that serves."""
        ...

    def lease(self, version: VersionRef) -> Sequence[LeasedTask] | None:
        """The next tasks, none if there are none at the moment. None once the shift is over: another version serves, for example."""
        ...

    def note_code(self, environment: str, code: str) -> None:
        """Take note of the code that an environment was loaded with here. Raises `InputError` if it must not be another one."""
        ...

    def cannot_make(self, lease: Lease, error: str) -> None:
        """The environment of a task cannot be made here."""
        ...

    def finish(self, lease: Lease) -> None:
        """A task's group has been played. This and the next two raise `LeaseLost`."""
        ...

    def release(self, lease: Lease) -> None:
        """Give a task back that was not played to its end, which is nobody's fault."""
        ...

    def retry(self, lease: Lease, error: str) -> None:
        """Give a task back that could not be played; some such failures fail it for good."""
        ...


class LivePlay:
    """Plays one shift after the other with the environments that it has loaded."""

    def __init__(self, desk: TaskDesk, journal: Journal, config: Config, say: Callable[[str, str | None], None]) -> None:
        self._desk = desk
        self._journal = journal
        self._config = config
        self._say = say
        self._environments: dict[str, Environment] = {}
        self._loaded: VersionRef | None = None

    def play_shift(self, model: Model, stop: Callable[[], bool]) -> bool:
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
        except Unavailable:  # a full disk, not the fault of the tasks: they are given back when this process is dead
            raise
        except InputError:  # this machine lacks something that others may have
            self._give_back(shift.groups)
            raise
        except (PolicyError, RuntimeFailure) as error:
            for group in shift.groups.values():
                with suppress(LeaseLost):
                    if group.begun:
                        self._desk.retry(group.lease, str(error))
                    else:
                        self._desk.release(group.lease)
            raise
        self._give_back(shift.groups)
        return shift.tasks > 0

    def environment(self, name: str, code: str | None) -> Environment:
        """An environment, loaded unless it is already; loaded anew if its code is known to be another one.

        Raises as `Config.environment` and `TaskDesk.note_code` do.
        """
        loaded = self._environments.get(name)
        if loaded is None or (loaded.code and code not in (None, loaded.code)):
            self._environments.pop(name, None)
            loaded = self._config.environment(name)
            self._desk.note_code(name, loaded.code)
            self._environments[name] = loaded
        return loaded

    def _load_serving(self, model: Model) -> tuple[VersionRef, Policy]:
        """The serving version and its policy, which is loaded if it is not."""
        version = self._desk.serving()
        if self._loaded != version:
            self._say("loading", f"the weights of {version}")
            self._loaded = version
        return version, model.load(version.name)

    def _draw(self, shift: _Shift) -> Iterator[Attempt | None]:
        """The members of one task after the other until the shift ends; None if there is nothing to begin at the moment.

        Tasks are leased when there is a place for the first member, and the members of a task come before the next one: the turns of the
        members in play extend its lease.
        """
        while (leased := self._desk.lease(shift.version)) is not None:
            for found in leased:
                shift.tasks += 1
                members = [member for member in range(found.task.members) if member not in found.done]
                shift.groups[found.task.id] = _Group(task=found.task, lease=found.lease, left=members, completed=len(found.done))
            self._report(shift)
            for found in leased:
                # None if the task has nothing to play: `play` then makes a round before the next task is tried
                attempts: list[Attempt | None] = [*self._attempts(found, shift.groups)]
                yield from attempts or [None]
            if not leased:
                yield None

    def _attempts(self, found: LeasedTask, groups: dict[int, _Group]) -> list[Attempt]:
        """The members of a task that are not completed yet. The task ends here if none is left or its environment cannot be made."""
        group = groups[found.task.id]
        group.begun = True
        if not group.left:
            del groups[found.task.id]
            self._desk.finish(found.lease)
            return []
        try:
            environment = self.environment(found.task.environment, found.code)
        except Unavailable:  # it has other code now than this process has imported
            raise
        except Exception as error:  # noqa: BLE001 - an operator's environment may raise anything; the task is written down as failed
            del groups[found.task.id]
            self._desk.cannot_make(found.lease, f"{found.task.environment} cannot be made: {error}")
            return []
        return [
            Attempt(
                environment=environment,
                seed=found.task.seed,
                group=f"task-{found.task.id}",
                member=member,
                purpose="live",
                lease=found.lease,
            )
            for member in group.left
        ]

    def _note_end(self, groups: dict[int, _Group], episode: Episode) -> None:
        """Note the end of an episode. The task ends with the last episode of its group."""
        assert episode.task is not None, "live episodes belong to a task"
        group = groups[episode.task]
        group.left.remove(episode.member)
        group.completed += episode.state == "completed"
        group.interrupted |= episode.state == "aborted"
        group.error = episode.error or group.error
        if group.left or group.interrupted:  # an interrupted group stays in `groups`, so that `_give_back` releases its task
            return
        if group.completed:
            self._desk.finish(group.lease)
        else:
            self._environments.pop(group.task.environment, None)  # it may work if it is loaded anew
            self._desk.retry(group.lease, group.error or "the environment failed in every episode")
        del groups[group.task.id]

    def _give_back(self, groups: dict[int, _Group]) -> None:
        for group in groups.values():
            with suppress(LeaseLost):
                self._desk.release(group.lease)

    def _report(self, shift: _Shift) -> None:
        """Say what is played; only every few seconds, since each time is a write."""
        if shift.tasks and time.monotonic() - shift.reported_s > BEAT_S:
            turns = "; each turn is a sequence of its own" if shift.separate else ""
            detail = f"with {shift.version}, up to {self._config.play.width} episodes at once{turns}; tasks so far: {shift.tasks}"
            self._say("playing", detail)
            shift.reported_s = time.monotonic()


@dataclass(slots=True, kw_only=True)
class _Shift:
    """What one version plays, until another one serves or the process has to stop."""

    version: VersionRef
    separate: bool
    """Whether each turn is a sequence of its own."""
    groups: dict[int, _Group] = field(default_factory=dict)
    """By task: those that are leased."""
    tasks: int = 0
    """How many were leased."""
    reported_s: float = -math.inf
    """When it was last reported, on the monotonic clock."""


@dataclass(slots=True, kw_only=True)
class _Group:
    """The episodes of one task that are still to be played."""

    task: Task
    lease: Lease
    left: list[int]
    """The members that have not ended."""
    completed: int
    begun: bool = False
    interrupted: bool = False
    error: str = ""
