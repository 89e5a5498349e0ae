"""What `perdure run` shows while it runs: a live view on a terminal, one line for each change elsewhere. All of it goes to stderr.

`render` is pure: a snapshot in (`home_snapshot.py`), something to draw out. Left out: the summary at the end (`summary.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from perdure.agent.processes.process_names import ACTOR, SUPERVISOR, WEB, is_vllm, job_process
from perdure.agent.show.home_snapshot import HomeSnapshot, beside, event_line, process_line, reporting_changes, snapshots
from perdure.agent.show.terminal import visible
from perdure.agent.show.update_line import update_line
from perdure.agent.telemetry.json_report import reporting_json
from perdure.memory.contracts.orders import Job
from perdure.memory.gates import GateRow
from perdure.memory.jobs import Step
from perdure.memory.records import Pair

BARS = "▁▂▃▄▅▆▇█"


@contextmanager
def watching(home: Path, *, json_log: bool = False) -> Iterator[None]:
    """Show the home on stderr while this lasts, and stop at once when it ends. With `json_log` as JSON, also on a terminal."""
    console = Console(stderr=True)
    if json_log:
        with reporting_json(home, lambda line: click.echo(line, err=True)):
            yield
    elif console.is_terminal:
        with beside(lambda ended: _show_live(home, console, ended)):
            yield
    else:
        with reporting_changes(home, lambda line: click.echo(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", err=True)):
            yield


def render(snapshot: HomeSnapshot) -> RenderableType:
    """The live view."""
    parts: list[RenderableType] = [_headline(snapshot), _environments(snapshot)]
    if snapshot.job and snapshot.steps:
        parts.append(_curve(snapshot.job, snapshot.steps))
    if snapshot.gate:
        parts.append(_gate(snapshot.gate, snapshot.pairs))
    parts += [Text(f"  {event_line(event)}", style="dim", no_wrap=True, overflow="ellipsis") for event in snapshot.events]
    return Group(*parts)


def spark(values: Sequence[float], low: float = 0.0, high: float = 1.0) -> str:
    """A curve in one line; values outside [low, high] are drawn at its edge."""
    top = len(BARS) - 1
    return "".join(BARS[round(min(max((value - low) / (high - low), 0.0), 1.0) * top)] for value in values)


def _show_live(home: Path, console: Console, ended: threading.Event) -> None:
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False) as live:
        for snapshot in snapshots(home, ended):
            live.update(render(snapshot), refresh=True)


def _headline(snapshot: HomeSnapshot) -> Text:
    line = Text(f"{snapshot.serving or 'no version'} serves", style="bold") if snapshot.serving else Text("starting", style="bold")
    line.append(f"  {snapshot.episodes} episodes, {snapshot.queued} tasks queued", style="not bold")
    servers = sorted(filter(is_vllm, snapshot.processes))
    for name in (SUPERVISOR, WEB, *servers, ACTOR, *([job_process(snapshot.job.id)] if snapshot.job else [])):
        if name in snapshot.processes:
            line.append(f"\n  {process_line(snapshot.processes[name])}", style="not bold")
    return line


def _environments(snapshot: HomeSnapshot) -> Table:
    table = Table(box=None, pad_edge=True, header_style="dim")
    for column, justify in (("environment", "left"), ("episodes", "right"), ("success", "right"), ("", "left"), ("mixed groups", "right")):
        table.add_column(column, justify="right" if justify == "right" else "left", overflow="fold")
    for name in snapshot.environments:
        row = snapshot.rates.get(name)
        if row is None or not row.episodes:
            table.add_row(Text(visible(name)), "0", "-", "", "-")
            continue
        share = row.successes / row.episodes
        bar = Text("█" * round(share * 20), style="green" if share >= 0.9 else "cyan")
        table.add_row(Text(visible(name)), str(row.episodes), f"{share:.0%}", bar, f"{row.mixed_groups} of {row.groups}")
    return table


def _curve(job: Job, made: Sequence[Step]) -> Text:
    """The curve of success, or of the negative log-likelihood if the learner plays nothing."""
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
