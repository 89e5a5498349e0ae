"""The daemon's watch on live play: shows finished tasks of the serving version to the detectors, and queues a gate to confirm an alarm.

What is expected of a version are its scores in gates, so a version that no gate has scored, as after `perdure version promote` of a version
that was never gated, is not watched; `perdure gate NAME` scores it. Only gates that sampled at the temperature of live play count. All
state is in the store: nothing is looked at twice, and a restart loses nothing.
Left out: the detectors (`e_detector.py`), and what the confirming gate leads to (`conclusion.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

from perdure.agent.watching.e_detector import Detector
from perdure.agent.watching.finding import expected_range
from perdure.memory.contracts.orders import GateOrder
from perdure.memory.environments import environments_in_use
from perdure.memory.errors import RuntimeFailure, UnknownError
from perdure.memory.jobs import ENDED, add_job, get_job
from perdure.memory.processes import record_event
from perdure.memory.store import Store
from perdure.memory.versions import require_files, served_before, serving
from perdure.memory.watches import (
    EnvironmentWatch,
    PlayedTask,
    ScoreSums,
    finished_before,
    gated_scores,
    keep_watches,
    last_closed_gate,
    played_tasks,
    tasks_done,
    watches,
    write_watch,
)

AT_ONCE = 256
"""Tasks that one look reads at most."""


class LiveWatch:
    """The duty; `tick` is one look."""

    def __init__(self, store: Store, temperature: float) -> None:
        self._store = store
        self._temperature = temperature
        """Of live play."""
        self._known: tuple[str | int, ...] = ()
        """The serving version, the last closed gate and the environments in use when it was last asked what is expected."""

    def tick(self) -> None:
        try:
            version = serving(self._store).name
        except UnknownError:
            return
        self._feed(version)
        self._expect(version)
        self._follow_alarms(version)

    def _feed(self, version: str) -> None:
        """Show the detectors the tasks that have ended."""
        if not self._tasks(watches(self._store, version)):
            return
        with self._store.write():  # read again in it: a job may have ended meanwhile
            rows = watches(self._store, version)
            tasks = self._tasks(rows)
            if not tasks:
                return
            played = played_tasks(self._store, tasks)
            for row in rows:
                write_watch(self._store, replace(after_tasks(row, played), last_task=max(row.last_task, tasks[-1])))

    def _tasks(self, rows: Sequence[EnvironmentWatch]) -> list[int]:
        if not rows:
            return []
        return tasks_done(self._store, min(row.last_task for row in rows), finished_before(self._store), AT_ONCE)

    def _expect(self, version: str) -> None:
        """Watch what gates have scored. More scores narrow what is expected, and never widen it, which would hide a slow fall."""
        in_use = [row.name for row in environments_in_use(self._store)]
        known: tuple[str | int, ...] = (version, last_closed_gate(self._store), *in_use)
        if known == self._known:
            return
        with self._store.write():
            rows = {row.environment: row for row in watches(self._store, version) if row.temperature == self._temperature}
            ranges = {}
            for name in in_use:
                scores = gated_scores(self._store, version, name, self._temperature)
                if scores:
                    ranges[name] = expected_range(scores)
            keep_watches(self._store, version, ranges.keys() & rows.keys())
            for name, (low, high) in ranges.items():
                row = rows.get(name)
                if row is None:
                    row = self._new(version, name, low, high)
                elif row.alarm_job is None:
                    row = narrowed(row, low, high)
                write_watch(self._store, row)
        self._known = known

    def _new(self, version: str, environment: str, low: float, high: float) -> EnvironmentWatch:
        return EnvironmentWatch(
            version=version,
            environment=environment,
            temperature=self._temperature,
            low=low,
            high=high,
            last_task=finished_before(self._store) - 1,
        )

    def _follow_alarms(self, version: str) -> None:
        """Queue one confirming gate for all alarms there are. An alarm whose gate ended without a conclusion is over."""
        rows = watches(self._store, version)
        for row in rows:
            if row.alarm_job is not None and get_job(self._store, row.alarm_job).state in ENDED:
                self._restart([row], f"its confirming gate, job {row.alarm_job}, came to nothing")
        alarmed = [row for row in rows if alarm_of(row) is not None]
        if not alarmed or any(row.alarm_job is not None for row in rows):
            return
        former = served_before(self._store)
        try:
            if former is None:
                raise RuntimeFailure(f"{version} is the first version, so there is none to compare it with")
            require_files(self._store, former)
        except RuntimeFailure as lacking:
            self._restart(alarmed, f"no gate can confirm it: {lacking}")
            return
        why = "; ".join(filter(None, map(alarm_of, alarmed)))
        with self._store.write():
            order = GateOrder(candidate=former.name, leads_to="rollback", why=why)
            job = add_job(self._store, f"watch-{uuid4()}", [row.environment for row in alarmed], order)
            for row in alarmed:
                write_watch(self._store, replace(row, alarm_job=job))
            record_event(self._store, "watch", version, f"{why}: job {job} compares {former.name} with {version} there")

    def _restart(self, rows: Sequence[EnvironmentWatch], why: str) -> None:
        with self._store.write():
            for row in rows:
                write_watch(self._store, begun_anew(row, row.low, row.high))
                record_event(self._store, "watch", row.version, f"{alarm_of(row) or row.environment}; {why}; the watch begins anew")


def after_tasks(watch: EnvironmentWatch, played: Sequence[PlayedTask]) -> EnvironmentWatch:
    """The watch after these tasks. Those of another version, environment or temperature do not count, nor any after an alarm."""
    for task in played:
        mine = (task.environment, task.version, task.temperature) == (watch.environment, watch.version, watch.temperature)
        if not mine or task.id <= watch.last_task or alarm_of(watch) is not None:
            continue
        fall, rise = detectors(watch)
        fall, rise = fall.after(task.score), rise.after(1 - task.score)
        watch = replace(
            watch,
            seen=ScoreSums(tasks=fall.scores, total=fall.total, squares=fall.squares),
            fell=fall.evidence,
            rose=rise.evidence,
        )
    return watch


def detectors(watch: EnvironmentWatch) -> tuple[Detector, Detector]:
    """Of a fall, and of a rise: that is a fall of 1 - score."""
    n, total, squares = watch.seen.tasks, watch.seen.total, watch.seen.squares
    return (
        Detector(expected=watch.low, scores=n, total=total, squares=squares, evidence=watch.fell),
        Detector(expected=1 - watch.high, scores=n, total=n - total, squares=n - 2 * total + squares, evidence=watch.rose),
    )


def alarm_of(watch: EnvironmentWatch) -> str | None:
    """The alarm in words; None without one."""
    fall, rise = detectors(watch)
    if fall.alarmed:
        what, expected = "fell", f"at least {watch.low:.2f}"
    elif rise.alarmed:
        what, expected = "rose", f"at most {watch.high:.2f}"
    else:
        return None
    return f"live play in {watch.environment} {what}: {fall.mean:.2f} over {fall.scores} tasks, expected was {expected}"


def narrowed(watch: EnvironmentWatch, low: float, high: float) -> EnvironmentWatch:
    """The watch with a range that is no wider than before."""
    return replace(watch, low=max(watch.low, low), high=min(watch.high, high))


def begun_anew(watch: EnvironmentWatch, low: float, high: float) -> EnvironmentWatch:
    """The watch without what it has seen."""
    return replace(watch, low=low, high=high, seen=ScoreSums(), fell=0.0, rose=0.0, alarm_job=None)
