"""What there is to see in a home at one moment, and what changed between two moments, a line for each.

`observe` reads the database through short reads, so it sees only what is written down. `changes` is pure: the only place where changes
become lines, for `perdure run` without a terminal and for commands that wait for their job. Left out: drawing a snapshot (`live_view.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from perdure.agent.processes.process_names import ACTOR, WEB, is_vllm, job_process
from perdure.agent.show.terminal import visible
from perdure.agent.show.update_line import update_line
from perdure.memory import tasks
from perdure.memory.contracts.orders import Job
from perdure.memory.environments import environments_in_use
from perdure.memory.errors import PerdureError
from perdure.memory.gates import GateRow, open_gate_of, pairs_of
from perdure.memory.jobs import Step, get_job, steps, unfinished_jobs
from perdure.memory.processes import Event, Process, events, processes
from perdure.memory.records import Pair
from perdure.memory.store import Store, open_store
from perdure.memory.trajectories import episodes
from perdure.memory.trajectories.episodes import RateRow
from perdure.memory.versions import list_versions

POLL_S = 1.0
EVENTS_SHOWN = 5
RATES_EVERY_EPISODES = 64
"""The success rates are a line each time this many more episodes have been played."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeSnapshot:
    """What there is to see at one moment."""

    serving: str | None = None
    environments: tuple[str, ...] = ()
    rates: Mapping[str, RateRow] = field(default_factory=dict)
    """Live episodes of the serving version."""
    queued: int = 0
    episodes: int = 0
    processes: Mapping[str, Process] = field(default_factory=dict)
    job: Job | None = None
    steps: tuple[Step, ...] = ()
    """Of the job that is worked on, or of the last one that was seen."""
    gate: GateRow | None = None
    pairs: tuple[Pair, ...] = ()
    """Of the gate that is open."""
    events: tuple[Event, ...] = ()
    """The latest, the oldest first."""


@contextmanager
def reporting_changes(home: Path, say: Callable[[str], None], job_id: int | None = None) -> Iterator[None]:
    """Say each change in the home while this lasts, and the progress of the job that is worked on, or of `job_id` if that is given."""
    with beside(lambda ended: _report_changes(home, say, job_id, ended)):
        yield


def observe(store: Store, job_id: int | None = None) -> HomeSnapshot:
    """Read what there is to see now, with the job that is worked on, or with `job_id` if that is given."""
    version = next((row.name for row in list_versions(store) if row.state == "serving"), None)
    job = next(iter(unfinished_jobs(store)), None) if job_id is None else get_job(store, job_id)
    gate = open_gate_of(store, job.id) if job and job.state == "gating" else None
    return HomeSnapshot(
        serving=version,
        environments=tuple(row.name for row in environments_in_use(store)),
        rates=episodes.success_rates(store, version) if version else {},
        queued=tasks.queued(store),
        episodes=episodes.count(store),
        processes={process.name: process for process in processes(store)},
        job=job,
        steps=tuple(steps(store, job.id)) if job else (),
        gate=gate,
        pairs=tuple(pairs_of(store, gate.id)) if gate else (),
        events=tuple(reversed(events(store, EVENTS_SHOWN))),
    )


def changes(before: HomeSnapshot, now: HomeSnapshot) -> list[str]:
    """What happened between two snapshots, a line for each."""
    lines = []
    if now.serving != before.serving:
        lines.append(f"{now.serving} serves")
    of_job = job_process(now.job.id) if now.job else None
    servers = sorted(filter(is_vllm, now.processes))
    for process in (now.processes.get(name) for name in (WEB, *servers, ACTOR, of_job) if name):
        if process is not None and process.state != "playing" and _is_news(process, before, with_detail=process.name == of_job):
            lines.append(process_line(process))
    last = before.events[-1].id if before.events else 0
    lines += [event_line(event) for event in now.events if event.id > last]
    if now.serving and now.episodes // RATES_EVERY_EPISODES > before.episodes // RATES_EVERY_EPISODES and now.job is None:
        shown = ", ".join(f"{name} {row.successes / row.episodes:.0%}" for name, row in now.rates.items() if row.episodes)
        lines.append(f"{now.episodes} episodes; success with {now.serving}: {shown or 'none ended yet'}")
    known = {(step.job, step.attempt, step.n) for step in before.steps}
    new = [step for step in now.steps if (step.job, step.attempt, step.n) not in known]
    lines += [f"job {step.job}, update {step.n}: {update_line(step.update)}" for step in new]
    if now.gate and len(now.pairs) != (len(before.pairs) if before.gate and before.gate.id == now.gate.id else 0):
        lines.append(f"gate {now.gate.id} of {now.gate.candidate}: {len(now.pairs)} pairs played")
    return lines


def snapshots(home: Path, ended: threading.Event, job_id: int | None = None) -> Iterator[HomeSnapshot]:
    """A snapshot every `POLL_S`, and a last one at the end. A moment when the store cannot be read is skipped."""
    store: Store | None = None
    try:
        last = False
        while not last:
            last = ended.wait(POLL_S if store else 0.1)
            try:
                store = store or open_store(home)
                snapshot = observe(store, job_id)
            except PerdureError:
                continue
            yield snapshot
    finally:
        if store is not None:
            store.close()


@contextmanager
def beside(show: Callable[[threading.Event], None]) -> Iterator[None]:
    """Call `show` in a thread of its own; its event is set when the block ends."""
    ended = threading.Event()
    thread = threading.Thread(target=show, args=(ended,), name="view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5)


def _report_changes(home: Path, say: Callable[[str], None], job_id: int | None, ended: threading.Event) -> None:
    before: HomeSnapshot | None = None
    for snapshot in snapshots(home, ended, job_id):
        if before is None:  # what happened before is no news, except for the start of the run
            known = snapshot.events if job_id is not None else snapshot.events[:-1]
            before = HomeSnapshot(events=known, episodes=snapshot.episodes, processes=snapshot.processes)
        for line in changes(before, snapshot):
            say(line)
        before = snapshot


def _is_news(process: Process, before: HomeSnapshot, *, with_detail: bool) -> bool:
    old = before.processes.get(process.name)
    return old is None or (old.pid, old.state) != (process.pid, process.state) or (with_detail and old.detail != process.detail)


def process_line(process: Process) -> str:
    return visible(f"{process.name}: {process.state}" + (f", {process.detail}" if process.detail else "")).replace("\n", " ")


def event_line(event: Event) -> str:
    return visible(f"{event.kind} ({event.subject}): {event.message}").replace("\n", " ")
