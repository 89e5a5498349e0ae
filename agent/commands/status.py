"""`perdure status`: what the home is doing, and why nothing more happens. It reads the database alone, with and without a daemon."""

from __future__ import annotations

import io
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.agent.processes.process_names import SUPERVISOR, WEB
from perdure.agent.show.terminal import home_option, print_json, print_table, report_option, visible

if TYPE_CHECKING:
    from perdure.agent.cluster.cluster_report import ClusterReport
    from perdure.agent.show.life_report import LifeReport
    from perdure.agent.stream.stage_report import StageReport, StreamReport
    from perdure.agent.watching.watch_report import WatchReport
    from perdure.memory.errands.errand_leases import ErrandsNow
    from perdure.memory.gates import GateRow
    from perdure.memory.json_value import Document
    from perdure.memory.processes import Alarm, Event, Pause, Process
    from perdure.memory.store import Store
    from perdure.memory.trajectories.episodes import RateRow

WATCH_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `perdure status` shows."""

    state: str
    serving: str | None
    idle_reason: str | None
    """Why nothing more happens; None while a job works."""
    doing: str | None
    """The job that works; None if none does."""
    stream: StreamReport
    tasks: Mapping[str, int]
    """By state, as in `jobs`."""
    episodes: int
    turns: int
    jobs: Mapping[str, int]
    last_verdict: GateRow | None
    last_death: Event | None
    uptime_s: float | None
    """Of the daemon."""
    environments: Mapping[str, RateRow]
    """Live episodes of the serving version."""
    watch: WatchReport
    processes: Sequence[Process]
    life: LifeReport | None
    """None if no version serves yet."""
    troubles: Sequence[str]
    """Why a daemon that should run is not well; empty if it is."""
    pauses: Sequence[Pause]
    alarms: Sequence[Alarm]
    """Learning at set times."""
    retired: Sequence[str]
    """The environments that are out of play, replay and gate."""
    confinement: str | None
    """Whether the environments of the last daemon are confined, as it noted when it started; None if it is not known."""
    page: Process | None
    """The daemon's web process, whose detail is its address or why there is none; None without a daemon, and if it serves none."""
    cluster: ClusterReport | None
    """The daemon's cluster and the players elsewhere; None without a daemon, and if it has none."""
    sizes: Mapping[str, int]
    """What the home takes on the disk, in bytes."""
    codes: Mapping[str, str | None]
    """What the code of each environment was when it was loaded last."""
    errands: ErrandsNow
    """Held-out draws that jobs want played by others."""

    def as_json(self) -> Document:
        verdict = None if self.last_verdict is None else self.last_verdict.as_json()
        return {
            "state": self.state,
            "serving": self.serving,
            "idle_reason": self.idle_reason,
            "doing": self.doing,
            "stream": asdict(self.stream),
            "tasks": self.tasks,
            "episodes": self.episodes,
            "turns": self.turns,
            "jobs": self.jobs,
            "last_verdict": verdict and {key: value for key, value in verdict.items() if key != "evidence"},
            "last_death": self.last_death and self.last_death.as_json(),
            "uptime_s": self.uptime_s,
            "environments": {name: rate.as_json() for name, rate in self.environments.items()},
            "watch": self.watch.as_json(),
            "processes": [process.as_json() for process in self.processes],
            "cluster": self.cluster and self.cluster.as_json(),
            "healthy": not self.troubles,
            "troubles": list(self.troubles),
            "pauses": [one.as_json() for one in self.pauses],
            "alarms": [one.as_json() for one in self.alarms],
            "retired": list(self.retired),
            "confinement": _confinement(self.confinement),
            "page": self.page
            and {
                "address": self.page.detail if self.page.state == "serving" else None,
                "obstacle": None if self.page.state == "serving" else self.page.detail,
            },
            "sizes": dict(self.sizes),
            "codes": dict(self.codes),
            "errands": self.errands.as_json(),
            **({"next": None, "anchors": {}, "life": None, "panel": None} if self.life is None else self.life.as_json()),
        }


@click.command()
@click.option("--check", is_flag=True, help="Exit code 1 unless a daemon runs and is well. Prints lines; all with --json.")
@click.option("--watch", is_flag=True, help="Show it again every two seconds, until Ctrl-C.")
@home_option
@report_option
@click.pass_context
def status(ctx: click.Context, check: bool, watch: bool, home: Path, as_json: bool) -> None:
    """Show what is running, and why it is waiting.

    \b
    Example:
      perdure status
      perdure status --json | jq .idle_reason
      perdure status --check || systemctl restart perdure
    """
    if check and watch:
        raise click.UsageError("--check and --watch exclude each other: give one of them", ctx)
    if watch:
        _watch(home, as_json)
        return
    shown = _read(home)
    asked = ctx.get_parameter_source("as_json") is not click.core.ParameterSource.DEFAULT
    if check and not (as_json and asked):
        why = shown.idle_reason or shown.doing
        for line in shown.troubles or (f"{shown.state}: {why}" if why else shown.state,):
            click.echo(visible(line))
    elif as_json:
        print_json(shown.as_json())
    else:
        _print(shown)
    ctx.exit(1 if check and shown.troubles else 0)


def _read(home: Path) -> Status:
    from perdure.memory.store import open_store

    with open_store(home, reading=True) as store:
        return report(store)


def _watch(home: Path, as_json: bool) -> None:
    """The table in place on a terminal; elsewhere one after the other, or one JSON document a line."""
    with suppress(KeyboardInterrupt):
        while True:
            shown = _read(home)
            if as_json:
                print_json(shown.as_json())
            elif sys.stdout.isatty():
                text = io.StringIO()
                with redirect_stdout(text):
                    _print(shown)
                size = shutil.get_terminal_size()
                click.clear()
                click.echo(fitting(text.getvalue(), size.columns, size.lines - 1))
            else:
                _print(shown)
            time.sleep(WATCH_S)


def fitting(text: str, columns: int, rows: int) -> str:
    """The first lines of a text that fit on a screen, on which a long line takes several rows; the last row says if some are left out."""
    lines = text.splitlines()
    taken = list(accumulate(max(1, -(-len(line) // columns)) for line in lines))
    if not taken or taken[-1] <= rows:
        return "\n".join(lines)
    fits = sum(total < rows for total in taken)
    return "\n".join([*lines[:fits], f"... {len(lines) - fits} more lines"])


def report(store: Store, life: Callable[[Store], LifeReport | None] | None = None) -> Status:
    """The status of a home. `life` gives the report of its life, which takes the longest; by default it is made anew."""
    from perdure.agent.cluster.cluster_report import cluster_report, is_piece
    from perdure.agent.show.daemon_health import activity, troubles
    from perdure.agent.show.life_report import life_report
    from perdure.agent.stream.stage_report import stream_report
    from perdure.agent.watching.watch_report import watch_report
    from perdure.memory import jobs, tasks
    from perdure.memory.environments import list_environments
    from perdure.memory.errands.errand_leases import errands_now
    from perdure.memory.errors import UnknownError
    from perdure.memory.gates import last_verdict
    from perdure.memory.leases import BootClock
    from perdure.memory.processes import CONFINEMENT, alarms, last_event, pauses, processes
    from perdure.memory.stages import list_stages, progress
    from perdure.memory.trajectories import episodes
    from perdure.memory.versions import serving

    try:
        version: str | None = serving(store).name
    except UnknownError:
        version = None
    known = {process.name: process for process in processes(store)}
    state, reason, started = activity(store, known.get(SUPERVISOR))
    works = started is not None and state in ("learning", "gating", "probing")
    counts, confinement, environments = episodes.counts(store), last_event(store, CONFINEMENT), list_environments(store)
    return Status(
        state=state,
        serving=version,
        idle_reason=None if works else reason,
        doing=reason if works else None,
        stream=stream_report(list_stages(store), progress(store)),
        tasks=tasks.counts(store),
        episodes=counts["episodes"],
        turns=counts["turns"],
        jobs=jobs.counts(store),
        last_verdict=last_verdict(store),
        last_death=last_event(store, "death"),
        uptime_s=None if started is None else round(time.time() - started, 1),
        environments=episodes.success_rates(store, version) if version else {},
        watch=watch_report(store),
        processes=tuple(process for process in known.values() if not is_piece(process)),
        life=(life or life_report)(store),
        troubles=troubles(store, state, reason, started),
        pauses=pauses(store),
        alarms=alarms(store),
        retired=[row.name for row in environments if row.retired is not None],
        confinement=None if confinement is None else confinement.message,
        page=None if started is None else known.get(WEB),
        cluster=None if started is None else cluster_report(known),
        sizes=_sizes(store.home),
        codes={row.name: row.code for row in environments if row.retired is None},
        errands=errands_now(store, BootClock()),
    )


def _confinement(said: str | None) -> Document | None:
    from perdure.memory.processes import CONFINED

    return None if said is None else {"possible": said == CONFINED, "obstacle": None if said == CONFINED else said}


def _sizes(home: Path) -> dict[str, int]:
    from perdure.agent.supervision.disk import size_bytes
    from perdure.memory.store import ARCHIVE, FILE_NAME, HISTORY

    database = sum(file.stat().st_size for file in home.glob(f"{FILE_NAME}*"))
    return {"database": database, **{name: size_bytes(home / name) for name in ("versions", ARCHIVE, HISTORY, "logs")}}


def _print(shown: Status) -> None:
    from perdure.agent.stream.stage_report import stream_line
    from perdure.memory.json_value import iso_utc

    verdict, death = shown.last_verdict, shown.last_death
    lines = {
        "state": shown.state,
        "doing": shown.doing,
        "why": shown.idle_reason,
        "paused": "; ".join(f"{one.what}, {one.reason}" for one in shown.pauses) or None,
        "serving": shown.serving,
        "stream": stream_line(shown.stream),
        "tasks": ", ".join(f"{n} {state}" for state, n in shown.tasks.items()),
        "episodes": f"{shown.episodes}, with {shown.turns} turns",
        "jobs": ", ".join(f"{n} {state}" for state, n in shown.jobs.items() if n) or "none",
        "errands": shown.errands.line(),
        "last death": f"{death.subject}, {death.message} ({iso_utc(death.happened)})" if death else None,
        "last verdict": f"{verdict.verdict} for {verdict.candidate}: {verdict.reason}" if verdict else None,
        "watch": shown.watch.line(),
        "panel": shown.life.panel_line() if shown.life else None,
        "next": shown.life.line() if shown.life else None,
        "life": shown.life.statement.text() if shown.life and shown.life.statement.gates else None,
        "next time": "; ".join(f"{_time_of(one)} ({one.name} = {one.setting})" for one in shown.alarms) or None,
        "retired": ", ".join(shown.retired) or None,
        "confinement": shown.confinement,
        "page": shown.page and (shown.page.detail if shown.page.state == "serving" else f"none: {shown.page.detail}"),
        "cluster": shown.cluster and shown.cluster.line(),
        "disk": ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in shown.sizes.items()),
        "up": None if shown.uptime_s is None else _duration(shown.uptime_s),
    }
    for name, text in lines.items():
        if text is not None:
            click.echo(f"{name:>12}  {visible(str(text))}")
    if shown.stream.present is not None:
        click.echo()
        _print_stage(shown.stream.present)
    if shown.environments:
        click.echo()
        rows = [
            (name, rate.episodes, rate.successes / rate.episodes, rate.mixed_groups, rate.groups)
            for name, rate in shown.environments.items()
        ]
        columns = ("environment", "episodes", "success", "mixed groups", "groups")
        print_table(columns, rows, title=f"Live episodes of {shown.serving}")
    if shown.life is not None and shown.life.anchors:
        _print_anchors(shown.life, shown.serving)


def _print_anchors(life: LifeReport, serving: str | None) -> None:
    from perdure.agent.show.life_report import anchor_rows

    click.echo()
    columns = ("environment", "anchor", "its score", "difference", "pairs")
    print_table(columns, anchor_rows(life), title=f"Anchors, the best versions so far, and {serving} against them")


def _print_stage(stage: StageReport) -> None:
    rows = [
        (name, f"{share.weight:g}", share.drawn, share.tasks or None, share.queued, share.ended)
        for name, share in stage.environments.items()
    ]
    print_table(("environment", "weight", "drawn", "of", "queued", "ended"), rows, title=f"Tasks of stage {stage.name}")


def _time_of(alarm: Alarm) -> str:
    """The next time as the clocks of its zone show it, else as that of this machine does."""
    from perdure.agent.supervision.alarms import zone_of

    passed = " (passed, and is made up for)" if alarm.next < time.time() else ""
    return f"{datetime.fromtimestamp(alarm.next, UTC).astimezone(zone_of(alarm)):%Y-%m-%d %H:%M %Z}" + passed


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
