"""The summary at the end of a run: what was played, what was learned, what the gate saw, and what to do next.

Read from the database at the end of `perdure run`. Success before and after is that of the gate's pairs: on held-out seeds that neither
version had seen, the same for both.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import click

from perdure.agent.show.candidate_line import candidate_line
from perdure.agent.show.gate_table import print_gate
from perdure.agent.show.terminal import Cell, print_table, visible
from perdure.agent.supervision.limits import Outcome
from perdure.memory.contracts.orders import GateOrder, Job
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.contracts.results import GateResult, LearnResult, ProbeResult
from perdure.memory.errors import UnknownError
from perdure.memory.jobs import jobs_after, last_ended
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import LiveCount, latest_episode_id, played_after
from perdure.memory.versions import serving


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The end of the store when a run began: later episodes and jobs belong to the run."""

    episode: int
    job: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What happened in a run."""

    played: tuple[LiveCount, ...]
    jobs: tuple[Job, ...]
    """Those that the run worked on, the oldest first."""
    serving: str | None


def mark(store: Store) -> Mark:
    """The present end of the store. Jobs that are still waiting belong to what comes."""
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
        if job.gate is not None:
            print_gate(job.gate)
    click.echo(f"\n{summary.serving} serves." if summary.serving else "\nNo version serves yet.")
    click.echo("Next:")
    for command, what in next_commands(summary):
        click.echo(f"  {command:<44} {what}")


def about(job: Job) -> list[str]:
    """The outcome of a job, in words."""
    head = f"Job {job.id}: {job.learner or job.kind}" + (f" on {visible(', '.join(job.targets))}" if job.targets else "")
    if job.state == "failed":
        return [f"{head} failed: {visible(job.error or 'no reason was written down')}"]
    if job.state != "done":
        return [f"{head} is {job.state}; the next run resumes it"]
    details: list[str] = []
    match job.result:
        case ProbeResult(version=version, environments=environments):
            scores = (f"{visible(name)} {'-' if row.score is None else f'{row.score:.2f}'}" for name, row in environments.items())
            return [f"{head} of {version}: {', '.join(scores)}"]
        case PanelResult(version=version, skills=skills):
            lost = [name for name, skill in skills.items() if skill.lost_against]
            found = f"forgotten: {visible(', '.join(lost))}" if lost else "all held"
            return [f"{head} of {version} on the capability panel: {found}"]
        case LearnResult(version=version, reason=reason) as learned:
            what = f"made {version}"
            details.append(f"  {candidate_line(learned)}")
        case GateResult(candidate=version) as confirming if isinstance(job.order, GateOrder) and job.order.leads_to == "rollback":
            shown = (
                f"{version} {'was' if confirming.verdict == 'promote' else 'was not'} shown to be better than {confirming.serving} there"
            )
            return [f"{head}: {visible(job.order.why or 'a loss was suspected')}; {shown}"]
        case GateResult(candidate=version, reason=reason):
            what = f"of {version}"
        case None:
            return [f"{head} is done"]
    lines = [f"{head} {what}: {job.verdict or 'not gated'}, {visible(reason).strip()}", *details]
    for name, leg in job.gate.evidence.trained.items() if job.gate else ():
        if leg.reference_score is not None and leg.candidate_score is not None:
            change = f"{leg.reference_score:.0%} -> {leg.candidate_score:.0%}"
            lines.append(f"  {visible(name)}: {change} of {leg.n} held-out tasks ({leg.reference} -> {version})")
    return lines


def next_commands(summary: Summary) -> list[tuple[str, str]]:
    """Three commands that make sense now, each with what it is for."""
    promoted = next((job for job in reversed(summary.jobs) if job.kind == "learn" and job.verdict == "promote"), None)
    learned = next((job for job in reversed(summary.jobs) if job.kind == "learn" and job.state == "done"), None)
    failed = any(job.state == "failed" for job in summary.jobs)
    commands = []
    if promoted is not None and promoted.candidate == summary.serving:
        commands.append(("perdure probe", f"scores of {promoted.candidate}, on held-out tasks"))
        commands.append(('perdure version rollback --reason "..."', "return to the version before"))
    elif learned is not None:
        targets = "".join(f" --target {shlex.quote(target)}" for target in learned.targets)
        commands.append((f"perdure version show {learned.candidate}", "the candidate and its gates"))
        commands.append((f"perdure learn {learned.learner}{targets}", "try once more"))
    elif failed:
        commands.append(("perdure status", "what failed, and why"))
    commands.append(("perdure episode show LAST", "an episode, turn by turn"))
    commands.append(("perdure run --until-promoted", "run until a version is promoted"))
    commands.append(("perdure task add ENV", "ask for a task"))
    return commands[:3]
