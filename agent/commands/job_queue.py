"""`perdure job`: the queue of jobs, one of them, and taking one back."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.agent.show.terminal import SummaryGroup, home_option, json_option, print_json, print_table, visible


@click.group(cls=SummaryGroup)
def job() -> None:
    """List jobs, show one, or cancel one.

    \b
    Example:
      perdure job list
    """


@job.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, newest first.")
@home_option
@json_option
def list_(limit: int, home: Path, as_json: bool) -> None:
    """List jobs with their states, newest first.

    \b
    Example:
      perdure job list --json | jq '.[] | select(.state == "queued") | .id'
    """
    from perdure.memory.jobs import as_json as job_json
    from perdure.memory.jobs import list_jobs
    from perdure.memory.store import open_store

    with open_store(home, reading=True) as store:
        jobs = list_jobs(store, limit)
    if as_json:
        print_json([job_json(one) for one in jobs])
        return
    rows = [
        (one.id, job_json(one)["created"], one.learner or one.kind, ", ".join(one.targets), one.state, one.candidate, one.error)
        for one in jobs
    ]
    columns = ("id", "created", "what", "targets", "state", "candidate", "error")
    print_table(columns, rows) if any(one.error for one in jobs) else print_table(columns[:-1], [row[:-1] for row in rows])


@job.command()
@click.argument("number", metavar="JOB", type=click.IntRange(1, 2**63 - 1))
@home_option
@json_option
def show(number: int, home: Path, as_json: bool) -> None:
    """Show a job: what was ordered, its state, and what it led to.

    \b
    Example:
      perdure job show 3
    """
    from perdure.agent.show.home_documents import job_document
    from perdure.memory.json_value import to_json
    from perdure.memory.store import open_store

    with open_store(home, reading=True) as store:
        facts = job_document(store, number)
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        shown = value if isinstance(value, str | int) else None if value in (None, [], {}) else to_json(value)
        click.echo(f"{key:>15}  {visible(str('-' if shown is None else shown))}")


@job.command()
@click.argument("number", metavar="JOB", type=click.IntRange(1, 2**63 - 1))
@click.option("--reason", default="by a person", show_default=True, help="Why; it is kept in the log.")
@home_option
@json_option
def cancel(number: int, reason: str, home: Path, as_json: bool) -> None:
    """Take a job back, whether it waits or runs. A process that works on it ends within seconds; what it made stays unused.

    \b
    Example:
      perdure job cancel 3
    """
    from perdure.agent.changes.job_orders import cancel_job
    from perdure.agent.changes.person import person_here
    from perdure.memory.store import open_store

    with open_store(home) as store:
        cancelled = cancel_job(store, person_here(), number, reason=reason)
    if as_json:
        print_json(cancelled)
        return
    click.echo(f"Job {number} is cancelled.")
