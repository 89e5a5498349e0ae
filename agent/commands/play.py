"""`perdure task` and `perdure env`: what is played, and what can be played. What came of it is `episode.py`."""

from __future__ import annotations

import random
from pathlib import Path

import click

from perdure.agent.show.terminal import (
    config_option,
    home_option,
    json_option,
    print_json,
    print_table,
    report_option,
    say,
    visible,
)
from perdure.memory.errors import InputError, RuntimeFailure

MAX_COUNT = 100_000


@click.group()
def task() -> None:
    """Put tasks on the stream, and list them.

    \b
    Example:
      perdure task list
    """


@task.command("add")
@click.argument("environment", metavar="ENV")
@click.option("--seed", type=int, help="Seed of the first task; the next ones follow it. [default: at random, from those for training]")
@click.option("--count", type=click.IntRange(1, MAX_COUNT), default=1, show_default=True, help="How many tasks.")
@home_option
@config_option
@json_option
def add(environment: str, seed: int | None, count: int, home: Path, config_path: Path | None, as_json: bool) -> None:
    """Put tasks of an environment on the stream; they are played before those that the stream makes itself.

    \b
    Example:
      perdure task add 'perdure:largest-number?shots=3' --count 8
    """
    from perdure.agent.config_file import load_config
    from perdure.agent.home import open_or_create
    from perdure.agent.stream.registering import register_environments
    from perdure.envs.seeds import SPLITS
    from perdure.memory.tasks import add_tasks, list_tasks

    loaded = load_config(config_path)
    found = loaded.config.environment(environment)
    name = found.name
    train = SPLITS["train"]
    if seed is None:
        seeds = [random.randrange(len(train)) for _ in range(count)]
    elif seed in train and seed + count - 1 in train:
        seeds = list(range(seed, seed + count))
    else:
        raise InputError(
            f"seeds of tasks are {train[0]} to {train[-1]}, not {_span(seed, count)}: "
            "higher ones are kept for probes, which are never learned"
        )
    with open_or_create(home) as store:
        register_environments(store, [found])
        with store.write():  # nobody else adds tasks in between: the newest ones are ours
            ids = add_tasks(store, name, seeds, loaded.config.play.members, "person")
            added = [summary.as_json() for summary in reversed(list_tasks(store, limit=count))]
    if as_json:
        print_json(added)
        return
    numbers = f"task {ids[0]}" if count == 1 else f"tasks {ids[0]} to {ids[-1]}"
    click.echo(f"Queued {numbers} of {name}. `perdure run` plays them, and `perdure task list` shows what came of them.")


@task.command("list")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, the newest first.")
@home_option
@json_option
def list_(limit: int, home: Path, as_json: bool) -> None:
    """List tasks with their states and episodes, the newest first.

    \b
    Example:
      perdure task list --limit 5 --json
    """
    from perdure.memory.store import open_store
    from perdure.memory.tasks import list_tasks

    with open_store(home) as store:
        found = [summary.as_json() for summary in list_tasks(store, limit)]
    if as_json:
        print_json(found)
        return
    columns = ["id", "environment", "seed", "state", "source", "stage", "episodes"]
    if any(row["error"] for row in found):
        columns.append("error")
    rows = [tuple(_range(row["episodes"]) if key == "episodes" else row[key] for key in columns) for row in found]
    print_table(columns, rows)


@click.group()
def env() -> None:
    """List environments, check one, or play it yourself.

    \b
    Example:
      perdure env list
    """


@env.command("list")
@json_option
def list_environments(as_json: bool) -> None:
    """List the built-in environments, the sources of others, and what installed packages offer.

    Any other is named by its source: gym:Id-v0, textarena:Id-v0, py:package.module:Class. Options follow, as in ENV?key=value&key=value.
    A source whose package is not installed says how to install it.

    \b
    Example:
      perdure env list --json
    """
    from perdure.envs.registry import listings

    found = listings()
    if as_json:
        print_json([listing.as_json() for listing in found])
        return
    rows = [(row.name, row.summary, ", ".join(f"{option.name}={option.default}" for option in row.options)) for row in found]
    print_table(("environment", "what is asked", "options"), rows)
    say("Your own class is py:MODULE:CLASS. `perdure env check NAME` looks at any.")


@env.command()
@click.argument("environment", metavar="ENV")
@config_option
@report_option
@click.pass_context
def check(ctx: click.Context, environment: str, config_path: Path | None, as_json: bool) -> None:
    """Check that an environment keeps the rules that learning and the gate rely on. Exit code 1 where one is broken.

    \b
    Example:
      perdure env check perdure:largest-number
    """
    from perdure.agent.config_file import load_config
    from perdure.agent.home import cache_dir
    from perdure.envs.check.checker import check as check_environment
    from perdure.learners.weights.base_models import find_model
    from perdure.learners.weights.token_count import length_of

    config = load_config(config_path).config
    say(f"playing some hundred episodes of {environment}")
    loaded, findings = check_environment(environment, config.allowed(), length_of(find_model(config.model, cache_dir())))
    ok = all(finding.level != "error" for finding in findings)
    if as_json:
        print_json({"ok": ok, "findings": [finding.as_json() for finding in findings]})
    else:
        if findings:
            print_table(("level", "rule", "what was found"), [(row.level, row.rule, row.message) for row in findings])
        kept = "breaks no rule; judge the warnings yourself." if findings else "keeps every rule."
        click.echo(f"{loaded.name} " + (kept if ok else "breaks a rule: do not learn from it before that is mended."))
    ctx.exit(0 if ok else 1)


@env.command()
@click.argument("environment", metavar="ENV")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Which task. [default: at random]")
@config_option
def play(environment: str, seed: int | None, config_path: Path | None) -> None:
    """Play one task of an environment yourself: type an answer after each '>'.

    \b
    Example:
      perdure env play perdure:largest-number --seed 7
    """
    from perdure.agent.config_file import load_config
    from perdure.envs.guarded import EnvironmentFault, opened

    loaded = load_config(config_path).config.environment(environment)
    seed = random.randrange(2**30) if seed is None else seed
    click.echo(f"{loaded.name}, seed {seed}; Ctrl-D ends the game.")
    if loaded.instructions:
        click.echo(f"\n{visible(loaded.instructions)}")
    game = opened(loaded)
    total, stated = 0.0, None
    try:
        observation = loaded.asked(game.reset(seed))
        for _ in range(loaded.turn_limit):
            click.echo(f"\n{visible(observation)}")
            try:
                action = input("> ")
            except EOFError:
                click.echo("\nThe game was left.")
                return
            outcome = game.step(action)
            total, stated, observation = total + outcome.reward, outcome.success, outcome.observation
            if outcome.ended:
                break
    except EnvironmentFault as fault:
        raise RuntimeFailure(f"{loaded.name} failed: {fault}; `perdure env check '{loaded.name}'` tells more") from fault
    finally:
        game.close()
    success, _ = loaded.judge(total, stated)
    if observation:
        click.echo(f"\n{visible(observation)}")
    click.echo(f"\nReturn {total:g}: " + ("success." if success else "no success."))


def _span(seed: int, count: int) -> str:
    return str(seed) if count == 1 else f"{seed} to {seed + count - 1}"


def _range(ids: list[int]) -> str:
    if not ids:
        return ""
    return str(ids[0]) if len(ids) == 1 else f"{ids[0]}-{ids[-1]} ({len(ids)})"
