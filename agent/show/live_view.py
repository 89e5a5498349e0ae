"""What a run shows while it runs: a live view on a terminal, one line for each change elsewhere. All of it goes to stderr.

It looks at the database only, through short reads of a connection of its own, so it shows what is written down and nothing else.
`observe` reads, `changes` and `render` are pure. Left out: the summary at the end (`summary.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from perdure.agent.processes.names import ACTOR, SUPERVISOR, VLLM, job_process
from perdure.agent.show.terminal import visible
from perdure.agent.show.update_line import update_line
from perdure.memory import tasks
from perdure.memory.contracts.orders import Job
from perdure.memory.environments import list_environments
from perdure.memory.errors import PerdureError
from perdure.memory.gates import GateRow, open_gate_of, pairs_of
from perdure.memory.jobs import Step, get_job, steps, unfinished_jobs
from perdure.memory.processes import Event, Process, events, processes
from perdure.memory.records import Pair
from perdure.memory.replay import episodes
from perdure.memory.replay.episodes import RateRow
from perdure.memory.store import Store, open_store
from perdure.memory.versions import list_versions

POLL_S = 1.0
EVENTS_SHOWN = 5
PLAIN_EVERY_EPISODES = 64
"""Without a terminal, the success rates are a line each time so many more episodes have been played."""

BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
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
def watching(home: Path) -> Iterator[None]:
    """Show the home on stderr while this lasts, and stop at once when it ends."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _beside(lambda ended: _show_live(home, console, ended)):
            yield
    else:
        with telling(home, lambda line: click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)):
            yield


@contextmanager
def telling(home: Path, say: Callable[[str], None], job_id: int | None = None) -> Iterator[None]:
    """Say each change in the home while this lasts, and the progress of the job that is worked on, or of `job_id` if that is given."""
    with _beside(lambda ended: _tell(home, say, job_id, ended)):
        yield


def observe(store: Store, job_id: int | None = None) -> Scene:
    """Read the scene, with the job that is worked on, or with `job_id` if that is given."""
    version = next((row.name for row in list_versions(store) if row.state == "serving"), None)
    job = next(iter(unfinished_jobs(store)), None) if job_id is None else get_job(store, job_id)
    gate = open_gate_of(store, job.id) if job and job.state == "gating" else None
    return Scene(
        serving=version,
        environments=tuple(row.name for row in list_environments(store)),
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


def changes(before: Scene, now: Scene) -> list[str]:
    """What happened between two scenes, a line for each."""
    lines = []
    if now.serving != before.serving:
        lines.append(f"{now.serving} serves")
    of_job = job_process(now.job.id) if now.job else None
    for process in (now.processes.get(name) for name in (VLLM, ACTOR, of_job) if name):
        if process is not None and process.state != "playing" and _is_news(process, before, with_detail=process.name == of_job):
            lines.append(_says(process))
    last = before.events[-1].id if before.events else 0
    lines += [_told(event) for event in now.events if event.id > last]
    if now.serving and now.episodes // PLAIN_EVERY_EPISODES > before.episodes // PLAIN_EVERY_EPISODES and now.job is None:
        shown = ", ".join(f"{name} {row.successes / row.episodes:.0%}" for name, row in now.rates.items() if row.episodes)
        lines.append(f"{now.episodes} episodes; success with {now.serving}: {shown or 'none ended yet'}")
    known = {(step.job, step.attempt, step.n) for step in before.steps}
    new = [step for step in now.steps if (step.job, step.attempt, step.n) not in known]
    lines += [f"job {step.job}, update {step.n}: {update_line(step.update)}" for step in new]
    if now.gate and len(now.pairs) != (len(before.pairs) if before.gate and before.gate.id == now.gate.id else 0):
        lines.append(f"gate {now.gate.id} of {now.gate.candidate}: {len(now.pairs)} pairs played")
    return lines


def render(scene: Scene) -> RenderableType:
    """The live view."""
    parts: list[RenderableType] = [_headline(scene), _environments(scene)]
    if scene.job and scene.steps:
        parts.append(_curve(scene.job, scene.steps))
    if scene.gate:
        parts.append(_gate(scene.gate, scene.pairs))
    parts += [Text(f"  {_told(event)}", style="dim", no_wrap=True, overflow="ellipsis") for event in scene.events]
    return Group(*parts)


def spark(values: Sequence[float], low: float = 0.0, high: float = 1.0) -> str:
    """A curve in one line; values outside [low, high] are drawn at its edge."""
    top = len(BARS) - 1
    return "".join(BARS[round(min(max((value - low) / (high - low), 0.0), 1.0) * top)] for value in values)


def _show_live(home: Path, console: Console, ended: threading.Event) -> None:
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False) as live:
        for scene in _scenes(home, ended):
            live.update(render(scene), refresh=True)


def _tell(home: Path, say: Callable[[str], None], job_id: int | None, ended: threading.Event) -> None:
    before: Scene | None = None
    for scene in _scenes(home, ended, job_id):
        if before is None:  # what happened before is no news, but for the start of the run itself
            known = scene.events if job_id is not None else scene.events[:-1]
            before = Scene(events=known, episodes=scene.episodes, processes=scene.processes)
        for line in changes(before, scene):
            say(line)
        before = scene


@contextmanager
def _beside(show: Callable[[threading.Event], None]) -> Iterator[None]:
    """Call `show` in a thread of its own; its event is set when the block ends."""
    ended = threading.Event()
    thread = threading.Thread(target=show, args=(ended,), name="view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=5)


def _scenes(home: Path, ended: threading.Event, job_id: int | None = None) -> Iterator[Scene]:
    """A scene every `POLL_S`, and a last one at the end. A moment at which the store cannot be read is passed over."""
    store: Store | None = None
    try:
        last = False
        while not last:
            last = ended.wait(POLL_S if store else 0.1)
            try:
                store = store or open_store(home)
                scene = observe(store, job_id)
            except PerdureError:
                continue
            yield scene
    finally:
        if store is not None:
            store.close()


def _headline(scene: Scene) -> Text:
    line = Text(f"{scene.serving or 'no version'} serves", style="bold") if scene.serving else Text("starting", style="bold")
    line.append(f"  {scene.episodes} episodes, {scene.queued} tasks queued", style="not bold")
    for name in (SUPERVISOR, VLLM, ACTOR, *([job_process(scene.job.id)] if scene.job else [])):
        if name in scene.processes:
            line.append(f"\n  {_says(scene.processes[name])}", style="not bold")
    return line


def _environments(scene: Scene) -> Table:
    table = Table(box=None, pad_edge=True, header_style="dim")
    for column, justify in (("environment", "left"), ("episodes", "right"), ("success", "right"), ("", "left"), ("mixed groups", "right")):
        table.add_column(column, justify="right" if justify == "right" else "left", overflow="fold")
    for name in scene.environments:
        row = scene.rates.get(name)
        if row is None or not row.episodes:
            table.add_row(Text(visible(name)), "0", "-", "", "-")
            continue
        share = row.successes / row.episodes
        bar = Text("█" * round(share * 20), style="green" if share >= 0.9 else "cyan")
        table.add_row(Text(visible(name)), str(row.episodes), f"{share:.0%}", bar, f"{row.mixed_groups} of {row.groups}")
    return table


def _curve(job: Job, made: Sequence[Step]) -> Text:
    """Of success, or of the likelihood of what is imitated where nothing is played."""
    line = Text(f"  job {job.id}: {job.learner} on {visible(', '.join(job.targets))}\n   ")
    success = [step.update.groups.success for step in made if step.update.groups.success is not None]
    nll = [step.update.nll for step in made if step.update.nll is not None]
    if success:
        line.append(" success ").append(spark(success), style="cyan")
    elif nll:
        line.append(" nll ").append(spark(nll, 0.0, max(*nll, 1e-9)), style="cyan")
    line.append(f"  update {made[-1].n}: {update_line(made[-1].update)}")
    return line


def _gate(gate: GateRow, pairs: Sequence[Pair]) -> Table:
    """Pairs so far. The means are for looking at: the verdict is not read off them."""
    table = Table(box=None, header_style="dim", title=f"gate {gate.id}: {gate.candidate}, {gate.profile}", title_justify="left")
    for column in ("environment", "role", "pairs", "candidate", "reference", "difference"):
        table.add_column(column, justify="left" if column in ("environment", "role") else "right", overflow="fold")
    compared: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        if pair.difference is not None:
            compared.setdefault((pair.environment, pair.role), []).append(pair)
    for (environment, role), found in compared.items():
        table.add_row(
            Text(visible(environment)),
            role,
            str(len(found)),
            f"{_mean([pair.candidate_score or 0.0 for pair in found]):.2f}",
            f"{_mean([pair.reference_score or 0.0 for pair in found]):.2f}",
            f"{_mean([pair.difference or 0.0 for pair in found]):+.2f}",
        )
    return table


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _is_news(process: Process, before: Scene, *, with_detail: bool) -> bool:
    old = before.processes.get(process.name)
    return old is None or (old.pid, old.state) != (process.pid, process.state) or (with_detail and old.detail != process.detail)


def _says(process: Process) -> str:
    return visible(f"{process.name}: {process.state}" + (f", {process.detail}" if process.detail else "")).replace("\n", " ")


def _told(event: Event) -> str:
    return visible(f"{event.kind} ({event.subject}): {event.message}").replace("\n", " ")
