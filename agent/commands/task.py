"""`perdure task`: what is played before the stream's own tasks, and every task with its episodes."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.agent.show.terminal import SummaryGroup, config_option, home_option, json_option, print_json, print_table

MAX_COUNT = 100_000


@click.group(cls=SummaryGroup)
def task() -> None:
    """Queue tasks, and list them.

    \b
    Example:
      perdure task list
    """


@task.command("add")
@click.argument("environment", metavar="ENV")
@click.option("--seed", type=int, help="Seed of the first task; the others count up from it. [default: a random training seed]")
@click.option("--count", type=click.IntRange(1, MAX_COUNT), default=1, show_default=True, help="How many tasks.")
@home_option
@config_option
@json_option
def add(environment: str, seed: int | None, count: int, home: Path, config_path: Path | None, as_json: bool) -> None:
    """Queue tasks of an environment. They are played before those of the stream.

    \b
    Example:
      perdure task add 'perdure:largest-number?shots=3' --count 8
    """
    from perdure.agent.changes.person import person_here
    from perdure.agent.changes.task_queue import add_tasks, check_seeds
    from perdure.agent.config_file import load_config
    from perdure.agent.home import open_or_create
    from perdure.agent.own_model import require_own_model, require_room
    from perdure.agent.stream.registering import register_environments
    from perdure.memory.environments import refuse_retired

    loaded = load_config(config_path)
    loaded_environment = loaded.config.environment(environment)
    name = loaded_environment.name
    check_seeds(seed, count)
    require_room(loaded.config, [loaded_environment], with_prompt=True)
    with open_or_create(home) as store:
        require_own_model(store, loaded.config)
        refuse_retired(store, name)
        register_environments(store, [loaded_environment])
        added = add_tasks(store, loaded, person_here(), name, seed=seed, count=count)
    if as_json:
        print_json(added)
        return
    first, last = added[0]["id"], added[-1]["id"]
    numbers = f"task {first}" if count == 1 else f"tasks {first} to {last}"
    click.echo(f"Queued {numbers} of {name}. `perdure run` plays them, and `perdure task list` shows their results.")


@task.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, newest first.")
@home_option
@json_option
def list_(limit: int, home: Path, as_json: bool) -> None:
    """List tasks with their states and episodes, newest first.

    \b
    Example:
      perdure task list --limit 5 --json
    """
    from perdure.memory.store import open_store
    from perdure.memory.tasks import list_tasks

    with open_store(home, reading=True) as store:
        listed = [summary.as_json() for summary in list_tasks(store, limit)]
    if as_json:
        print_json(listed)
        return
    columns = ["id", "created", "environment", "seed", "state", "source", "stage", "episodes"]
    if any(row["error"] for row in listed):
        columns.append("error")
    rows = [tuple(_range(row["episodes"]) if key == "episodes" else row[key] for key in columns) for row in listed]
    print_table(columns, rows)


def _range(ids: list[int]) -> str:
    if not ids:
        return ""
    return str(ids[0]) if len(ids) == 1 else f"{ids[0]}-{ids[-1]} ({len(ids)})"
