"""`perdure status`: what the home is doing, and why not more. Database only; it works with and without a daemon."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.agent.show.terminal import home_option, print_json, print_table, report_option, visible

if TYPE_CHECKING:
    from perdure.memory.stages import Drawn, Stage
    from perdure.memory.store import Store

SILENT_S = 60.0
"""A daemon that has not said anything for so long is reported as silent."""


@click.command()
@home_option
@report_option
def status(home: Path, as_json: bool) -> None:
    """Tell what is running, and why not more.

    \b
    Example:
      perdure status
      perdure status --json | jq .idle_reason
    """
    from perdure.memory.store import open_store

    with open_store(home) as store:
        found = report(store)
    if as_json:
        print_json(found)
        return
    tasks, jobs, verdict, death = found["tasks"], found["jobs"], found["last_verdict"], found["last_death"]
    lines = {
        "state": found["state"],
        "why": found["idle_reason"],
        "serving": found["serving"],
        "stream": stream_line(found["stream"]),
        "tasks": ", ".join(f"{n} {state}" for state, n in tasks.items()),
        "episodes": f"{found['episodes']}, with {found['turns']} turns",
        "jobs": ", ".join(f"{n} {state}" for state, n in jobs.items() if n) or "none",
        "last death": f"{death['subject']}, {death['message']} ({death['happened']})" if death else None,
        "last verdict": f"{verdict['verdict']} for {verdict['candidate']}: {verdict['reason']}" if verdict else None,
        "up": None if found["uptime_s"] is None else _duration(found["uptime_s"]),
    }
    for name, text in lines.items():
        if text is not None:
            click.echo(f"{name:>12}  {visible(str(text))}")
    stage = _present(found["stream"])
    if stage is not None:
        click.echo()
        shares = [
            (name, f"{one['weight']:g}", one["drawn"], one["tasks"] or None, one["queued"], one["ended"])
            for name, one in stage["environments"].items()
        ]
        print_table(("environment", "weight", "drawn", "of", "queued", "ended"), shares, title=f"Tasks of stage {stage['name']}")
    columns = ("environment", "episodes", "success", "mixed groups", "groups")
    rates = found["environments"]
    if rates:
        click.echo()
        rows = [(name, rate["episodes"], rate["success_rate"], rate["mixed_groups"], rate["groups"]) for name, rate in rates.items()]
        print_table(columns, rows, title=f"Live episodes of {found['serving']}")


def report(store: Store) -> dict[str, Any]:
    """The document that `status` prints."""
    from perdure.agent.home import lock_holder, lock_is_held
    from perdure.memory import jobs, tasks
    from perdure.memory.errors import UnknownError
    from perdure.memory.gates import last_verdict
    from perdure.memory.processes import last_event, processes
    from perdure.memory.replay import episodes
    from perdure.memory.stages import list_stages, progress
    from perdure.memory.versions import serving

    try:
        version: str | None = serving(store).name
    except UnknownError:
        version = None
    held, holder = lock_is_held(store.home), lock_holder(store.home)
    spoken = {process.name: process for process in processes(store)}
    supervisor = spoken.get("supervisor")
    running = supervisor if held and supervisor is not None and supervisor.pid == holder else None
    if running is not None:
        state, why = running.state, running.detail
        silent_s = time.time() - running.beat
        if silent_s > SILENT_S:
            why = (
                f"the daemon (process {running.pid}) has said nothing for {silent_s:.0f} s; what it wrote last is in {store.home / 'logs'}"
            )
    elif held:
        state, why = "busy", f"a command (process {holder}) works in this home, no daemon"
    else:
        state, why = "stopped", "no daemon runs in this home; start one with `perdure run`"
        if supervisor is not None:
            why += f"; how the last one ended: {supervisor.detail if supervisor.state == 'stopped' else 'without a word'}"
    verdict = last_verdict(store)
    death = last_event(store, "death")
    return {
        "state": state,
        "serving": version,
        "idle_reason": None if running is not None and state in ("learning", "gating", "probing") else why,
        "stream": stream_report(list_stages(store), progress(store)),
        "tasks": tasks.counts(store),
        **episodes.counts(store),
        "jobs": jobs.counts(store),
        "last_verdict": None if verdict is None else {key: value for key, value in verdict.as_json().items() if key != "evidence"},
        "last_death": None if death is None else death.as_json(),
        "uptime_s": None if running is None else round(time.time() - running.started, 1),
        "environments": {name: row.as_json() for name, row in episodes.success_rates(store, version).items()} if version else {},
        "processes": [process.as_json() for process in spoken.values()],
    }


def stream_report(stages: Sequence[Stage], drawn: Drawn) -> dict[str, Any]:
    """The stages with how far each is; `stage` is the present one, None where all have drawn their tasks."""
    from perdure.agent.stream.drawing import present
    from perdure.memory.stages import Progress

    def of(stage: Stage) -> dict[str, Any]:
        had = {name: one for (of, name), one in drawn.items() if of == stage.name}
        environments = {
            share.name: {"weight": share.weight, "tasks": share.tasks, **asdict(had.get(share.name, Progress()))}
            for share in stage.environments
        }
        total = {key: sum(getattr(one, key) for one in had.values()) for key in ("drawn", "queued", "ended")}
        told = {"name": stage.name, "order": stage.order, "curriculum": stage.curriculum, "members": stage.members, "tasks": stage.size}
        return {**told, **total, "environments": environments}

    now = present(stages, drawn)
    return {"stage": None if now is None else now.name, "stages": [of(stage) for stage in stages]}


def _present(stream: dict[str, Any]) -> dict[str, Any] | None:
    return next((stage for stage in stream["stages"] if stage["name"] == stream["stage"]), None)


def stream_line(stream: dict[str, Any]) -> str | None:
    stages, stage = stream["stages"], _present(stream)
    if not stages:
        return None
    if stage is None:
        left = sum(one["drawn"] - one["ended"] for one in stages)
        return "at its end: all stages are " + (f"drawn, {left} tasks are still to be played" if left else "played")
    how = f"{stage['order']}, by a curriculum" if stage["curriculum"] else stage["order"]
    much = f"{stage['ended']} of {stage['tasks']} tasks" if stage["tasks"] else f"{stage['ended']} tasks, without end"
    return f"stage {stage['name']}, {stages.index(stage) + 1} of {len(stages)}, {how}: {much}"


def _duration(seconds: float) -> str:
    minutes, hours = int(seconds) // 60, int(seconds) // 3600
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
