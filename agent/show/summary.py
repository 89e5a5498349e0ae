"""What a run came to: what was played, what was learnt, what the gate saw, and what to do next.

Read from the database at the end of `perdure run`. Success before and after is that of the gate's pairs: greedy play on held-out seeds that
neither version had seen, the same seeds for both.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from perdure.agent.show.terminal import Cell, print_table, visible
from perdure.agent.supervision.limits import Outcome
from perdure.agent.supervision.planner import verdict
from perdure.memory.errors import UnknownError
from perdure.memory.jobs import jobs_after, last_ended
from perdure.memory.records import Job
from perdure.memory.replay.episodes import LiveCount, latest_episode_id, played_after
from perdure.memory.store import Store
from perdure.memory.versions import serving

COLUMNS = ("environment", "role", "pairs", "candidate", "reference", "difference", "e-value", "verdict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where the store stood when a run began: what is above it belongs to the run."""

    episode: int
    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What there is to say about a run."""

    played: tuple[LiveCount, ...]
    jobs: tuple[Job, ...]
    """Those that the run worked on, the oldest first."""
    serving: str | None


def mark(store: Store) -> Mark:
    """The present end of the store. Jobs that are waiting still belong to what comes."""
    return Mark(episode=latest_episode_id(store) or 0, job=last_ended(store))


def summarise(store: Store, since: Mark) -> Summary:
    """Read what happened after `since`."""
    try:
        version = serving(store).name
    except UnknownError:
        version = None
    return Summary(played=tuple(played_after(store, since.episode)), jobs=tuple(jobs_after(store, since.job)), serving=version)


def show(summary: Summary, ended: Outcome) -> None:
    """Print it on stdout."""
    click.echo(f"\nThe run ended: {visible(ended.reason).rstrip('.')}.")
    if summary.played:
        rows: list[list[Cell]] = [
            [row.environment, row.episodes, f"{row.successes / row.episodes:.0%}" if row.episodes else None, row.not_counted]
            for row in summary.played
        ]
        print_table(("environment", "episodes", "success", "not counted"), rows, title="\nPlayed (live episodes, sampled)")
    for job in summary.jobs:
        click.echo("\n" + "\n".join(about(job)))
        gate = gate_of(job)
        if gate:
            print_table(COLUMNS, gate_rows(gate), title=f"\nGate {gate.get('gate')} of {gate.get('candidate')} (greedy, held-out seeds)")
            numbers = gate.get("episodes") or {}
            click.echo(f"{numbers.get('candidate', 0)} episodes by the candidate, {numbers.get('anchor', 0)} by the references")
    click.echo(f"\n{summary.serving} serves." if summary.serving else "\nNo version serves yet.")
    click.echo("Next:")
    for command, what in next_commands(summary):
        click.echo(f"  {command:<44} {what}")


def about(job: Job) -> list[str]:
    """What a job came to, in words."""
    head = f"Job {job.id}: {job.learner or job.kind}" + (f" on {visible(', '.join(job.targets))}" if job.targets else "")
    if job.state == "failed":
        return [f"{head} failed: {visible(job.error or 'no reason was written down')}"]
    if job.state != "done":
        return [f"{head} is {job.state}; it goes on with the next run"]
    result = job.result or {}
    reason = visible(str(result.get("reason") or "")).strip()
    if job.kind == "probe":
        scores = (f"{visible(name)} {_share(row['score']) or '-'}" for name, row in result["environments"].items())
        return [f"{head} of {result['version']}: {', '.join(scores)}"]
    what = f"of {job.candidate}" if job.kind == "gate" else f"made {job.candidate or 'no version'}"
    lines = [f"{head} {what}: {verdict(job) or 'not gated'}{', ' * bool(reason)}{reason}"]
    gain = (gate_of(job).get("gain") or {}).get("environments") or {}
    for name, test in gain.items():
        before, after = test.get("reference_score"), test.get("candidate_score")
        if before is not None and after is not None:
            versions = f"{test.get('reference')} -> {job.candidate}"
            lines.append(f"  {visible(name)}: {before:.0%} -> {after:.0%} of {test.get('n')} held-out tasks ({versions})")
    return lines


def gate_of(job: Job) -> Mapping[str, Any]:
    """What the gate saw in a job that learnt or only gated; empty where there was none."""
    result = job.result or {}
    return (result if job.kind == "gate" else result.get("gate")) or {}


def gate_rows(gate: Mapping[str, Any]) -> list[list[Cell]]:
    """The gate's tests as rows of `COLUMNS`: what was to be held, all of it pooled, and what was to be gained."""
    rows = [_row(name, test, test.get("role") or "earlier") for name, test in (gate.get("environments") or {}).items()]
    pooled = gate.get("pooled") or {}
    if pooled.get("n"):
        rows.append(_row("all earlier ones", pooled, "pooled"))
    gain = gate.get("gain") or {}
    rows += [_row(name, test, "gain") for name, test in (gain.get("environments") or {}).items()]
    return rows


def next_commands(summary: Summary) -> list[tuple[str, str]]:
    """Three commands that make sense now, each with what it is for."""
    promoted = next((job for job in reversed(summary.jobs) if job.kind == "learn" and verdict(job) == "promote"), None)
    learnt = next((job for job in reversed(summary.jobs) if job.kind == "learn" and job.state == "done"), None)
    failed = any(job.state == "failed" for job in summary.jobs)
    found = []
    if promoted is not None and promoted.candidate == summary.serving:
        found.append(("perdure probe", f"what {promoted.candidate} can, on held-out tasks"))
        found.append(('perdure version rollback --reason "..."', "the version before serves again"))
    elif learnt is not None:
        targets = "".join(f" --target {shlex.quote(target)}" for target in learnt.targets)
        found.append((f"perdure version show {learnt.candidate}", "what the gate saw of the candidate"))
        found.append((f"perdure learn {learnt.learner}{targets}", "try once more"))
    elif failed:
        found.append(("perdure status", "what failed, and why"))
    found.append(("perdure episode show LAST", "an episode, turn by turn"))
    found.append(("perdure run --until-promoted", "go on until something was learnt"))
    found.append(("perdure task add ENV", "ask for a task"))
    return found[:3]


def _row(name: str, test: Mapping[str, Any], role: str) -> list[Cell]:
    wealth = test.get("wealth")
    return [
        name,
        role,
        test.get("n") or 0,
        _share(test.get("candidate_score")),
        _share(test.get("reference_score")),
        None if test.get("mean_difference") is None else f"{test['mean_difference']:+.2f}",
        None if wealth is None else f"{wealth:.2f} of {test.get('need'):.0f}" if test.get("need") else f"{wealth:.2f}",
        test.get("state") or "-",
    ]


def _share(score: float | None) -> str | None:
    return None if score is None else f"{score:.2f}"
