"""`perdure env`: which environments exist, whether one keeps the rules, and playing one by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TextIO

import click

from perdure.agent.show.terminal import (
    SummaryGroup,
    config_option,
    home_option,
    json_option,
    print_json,
    print_table,
    report_option,
    say,
    visible,
    why_option,
)
from perdure.memory.errors import RuntimeFailure


@click.group(cls=SummaryGroup)
def env() -> None:
    """List environments, check one, play it yourself, or retire it from the home.

    \b
    Example:
      perdure env list
    """


@env.command("list")
@json_option
def list_environments(as_json: bool) -> None:
    """List the built-in environments, those of installed packages, and the other sources.

    Name any other environment by its source: gym:Id-v0, textarena:Id-v0, py:package.module:Class. Options follow, as in
    ENV?key=value&key=value. A source whose package is not installed shows how to install it.

    \b
    Example:
      perdure env list --json
    """
    from perdure.envs.listings import listings

    environments = listings()
    if as_json:
        print_json([listing.as_json() for listing in environments])
        return
    rows = [
        (listing.name, listing.summary, ", ".join(f"{option.name}={option.default}" for option in listing.options))
        for listing in environments
    ]
    print_table(("environment", "task", "options"), rows)
    say("Your own class is py:MODULE:CLASS. `perdure env check NAME` checks an environment.")


@env.command()
@click.argument("environment", metavar="ENV")
@config_option
@click.option(
    "--answers",
    type=click.File("r", encoding="utf-8"),
    metavar="FILE",
    help="Answers of your own to try as the only ones: one a line; a line in double quotes is read as JSON text.",
)
@home_option
@report_option
@click.pass_context
def check(ctx: click.Context, environment: str, config_path: Path | None, answers: TextIO | None, home: Path, as_json: bool) -> None:
    """Check that an environment keeps the rules that learning and the gate rely on. Exit code 1 if one is broken.

    A home that knows the environment keeps what was found: its page shows it.

    \b
    Example:
      perdure env check perdure:largest-number
    """
    from perdure.agent.config_file import load_config
    from perdure.agent.home import cache_dir
    from perdure.agent.show.check_notes import note_check
    from perdure.envs.check.checker import check as check_environment
    from perdure.learners.weights.base_models import find_model
    from perdure.learners.weights.token_count import length_of

    config = load_config(config_path).config
    say(f"playing a few hundred episodes of {environment}")
    length = length_of(find_model(config.model, cache_dir()))
    own = [] if answers is None else [_answer(line.rstrip("\n")) for line in answers if line.strip()]
    loaded, findings = check_environment(environment, config.allowed(), length, answers=own)
    ok = all(finding.level != "error" for finding in findings)
    note_check(home, loaded.name, findings)
    if as_json:
        print_json({"ok": ok, "findings": [finding.as_json() for finding in findings]})
    else:
        if findings:
            print_table(("level", "rule", "what was found"), [(row.level, row.rule, row.message) for row in findings])
        kept = "breaks no rule; judge the warnings yourself." if findings else "keeps every rule."
        click.echo(f"{loaded.name} " + (kept if ok else "breaks a rule: mend it before you learn from it."))
    ctx.exit(0 if ok else 1)


def _typed() -> str:
    """An answer of one line, or of several: each but the last ends with a backslash. Raises `EOFError`."""
    lines = [input("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(". "))
    return "\n".join(lines)


def _answer(line: str) -> str:
    """A line as it is, or the JSON text that it is."""
    if line.startswith('"'):
        try:
            return str(json.loads(line))
        except ValueError:
            return line
    return line


@env.command()
@click.argument("environment", metavar="ENV")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Which task. [default: at random]")
@config_option
def play(environment: str, seed: int | None, config_path: Path | None) -> None:
    """Play one task of an environment yourself: type an answer after each '>'. A line that ends with a backslash goes on in the next.

    \b
    Example:
      perdure env play perdure:largest-number --seed 7
    """
    from perdure.agent.config_file import load_config
    from perdure.envs.guarded import EnvironmentFault, open_episode

    loaded = load_config(config_path).config.environment(environment)
    seed = random.randrange(2**30) if seed is None else seed
    click.echo(f"{loaded.name}, seed {seed}; Ctrl-D ends the game.")
    game = open_episode(loaded)
    total, stated = 0.0, None
    try:
        observation = loaded.first_message(game.reset(seed))
        if instructions := loaded.instructions if game.instructions is None else game.instructions:
            click.echo(f"\n{visible(instructions)}")
        for _ in range(loaded.turn_limit):
            click.echo(f"\n{visible(observation)}")
            try:
                action = _typed()
            except EOFError:
                click.echo("\nThe game ended early.")
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


@env.command()
@click.argument("environment", metavar="ENV")
@why_option
@home_option
@json_option
def retire(environment: str, reason: str | None, home: Path, as_json: bool) -> None:
    """Take an environment of the home out of play, replay and gate. Its history and its anchor stay.

    ENV is its full name, as `perdure status` shows it. Its tasks that wait fail; those in play, and a job that learns, go on to their end.

    \b
    Example:
      perdure env retire perdure:largest-number
    """
    from perdure.agent.changes import environment_use
    from perdure.agent.changes.person import person_here
    from perdure.memory.store import open_store

    with open_store(home) as store:
        retired = environment_use.retire(store, person_here(), environment, reason=reason)
    if as_json:
        print_json(retired)
        return
    failed = retired["tasks_failed"]
    tasks = f" {failed} of its tasks waited, and are not played." if failed else ""
    asked = "".join(f" Job {number} has it as a target: `perdure job cancel {number}` takes it back." for number in retired["jobs"])
    click.echo(f"{visible(environment)} is retired.{tasks}{asked} `perdure env restore` brings it back.")


@env.command()
@click.argument("environment", metavar="ENV")
@why_option
@home_option
@json_option
def restore(environment: str, reason: str | None, home: Path, as_json: bool) -> None:
    """Bring a retired environment back into play, replay and gate, with the anchor that it had.

    \b
    Example:
      perdure env restore perdure:largest-number
    """
    from perdure.agent.changes import environment_use
    from perdure.agent.changes.person import person_here
    from perdure.memory.store import open_store

    with open_store(home) as store:
        restored = environment_use.restore(store, person_here(), environment, reason=reason)
    if as_json:
        print_json(restored)
        return
    anchor = restored["anchor"]
    click.echo(f"{visible(environment)} is back." + (f" The gate compares with its anchor {anchor}." if anchor else ""))
