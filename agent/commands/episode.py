"""`perdure episode`: episodes turn by turn, and the rewards that people and programs give them afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.agent.show.terminal import SummaryGroup, home_option, json_option, print_json, print_table, visible
from perdure.memory.errors import InputError, UnknownError

if TYPE_CHECKING:
    from perdure.memory.records import Episode
    from perdure.memory.store import Store


@click.group(cls=SummaryGroup)
def episode() -> None:
    """List episodes, show one turn by turn, and reward them.

    \b
    Example:
      perdure episode show LAST
    """


@episode.command("list")
@click.option("--env", "environment", metavar="ENV", help="Only episodes of this environment, by its full name.")
@click.option("--version", metavar="VERSION", help="Only episodes that this version played.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many, newest first.")
@home_option
@json_option
def list_episodes(environment: str | None, version: str | None, limit: int, home: Path, as_json: bool) -> None:
    """List episodes, newest first.

    \b
    Example:
      perdure episode list --env 'perdure:largest-number?shots=3' --limit 5
    """
    from perdure.memory.environments import require
    from perdure.memory.store import open_store
    from perdure.memory.trajectories import episodes
    from perdure.memory.versions import get_version

    with open_store(home, reading=True) as store:
        if environment is not None:
            require(store, environment)
        if version is not None:
            get_version(store, version)
        episodes_json = [summary.as_json() for summary in episodes.list_episodes(store, environment, version, limit)]
    if as_json:
        print_json(episodes_json)
        return
    columns = ("id", "started", "environment", "purpose", "state", "success", "return", "turns", "sampler")
    keys = ("id", "started", "environment", "purpose", "state", "success", "total_reward", "turns", "sampler")
    print_table(columns, [tuple(row[key] for key in keys) for row in episodes_json])


@episode.command("show")
@click.argument("which", metavar="ID|LAST")
@home_option
@json_option
def show_episode(which: str, home: Path, as_json: bool) -> None:
    """Show an episode turn by turn: texts, token ids, log-probs, rewards, and the version that sampled it.

    \b
    Example:
      perdure episode show LAST
      perdure episode show 17 --json | jq '.turns[0].action_ids'
    """
    from perdure.agent.show.home_documents import episode_document
    from perdure.memory.store import open_store
    from perdure.memory.trajectories.episodes import get_episode
    from perdure.memory.trajectories.rewards import rewards_of

    with open_store(home, reading=True) as store:
        number = _number(store, which)
        if as_json:
            print_json(episode_document(store, number))
        else:
            _print_episode(get_episode(store, number), rewards_of(store, number))


@episode.command(context_settings={"ignore_unknown_options": True})  # a reward of -0.5 is no option
@click.argument("which", metavar="[ID|LAST]", required=False)
@click.argument("value", type=float, required=False)
@click.option("--source", metavar="NAME", required=True, help="Who gives the reward; a learner uses it with --option rewards=NAME.")
@click.option("--file", "file", type=click.Path(path_type=Path), help='JSON lines such as {"episode": 12, "reward": 0.5}.')
@home_option
@json_option
@click.pass_context
def reward(ctx: click.Context, which: str | None, value: float | None, source: str, file: Path | None, home: Path, as_json: bool) -> None:
    """Reward an episode afterwards, or many from a file.

    The environment's own reward stays as it was. A second reward from the same source replaces the first. A file is taken as a whole or not
    at all.

    \b
    Example:
      perdure episode reward 17 0.5 --source anna
      perdure episode reward --file rewards.jsonl --source judge-2
      perdure learn trace-sft --option rewards=judge-2
    """
    from perdure.agent.changes.judgements import judge
    from perdure.agent.changes.person import person_here
    from perdure.memory.store import open_store
    from perdure.memory.trajectories.rewards import read_rewards

    if (which is None) != (value is None) or (which is None) == (file is None):
        raise click.UsageError("Give an episode and its reward, or --file.", ctx)
    with open_store(home) as store:
        if file is not None:
            rewards = read_rewards(store, file)
        else:
            assert which is not None
            assert value is not None
            rewards = {_number(store, which): value}
        judged = judge(store, person_here(), rewards, source=source)
    if as_json:
        print_json(judged)
    else:
        rewarded = f"{len(rewards)} episodes" if len(rewards) > 1 else f"episode {next(iter(rewards))}"
        click.echo(f"{source} has rewarded {rewarded}. `perdure learn trace-sft --option rewards={source}` learns from it.")


def _number(store: Store, which: str) -> int:
    """The number of an episode, given as such or as LAST."""
    from perdure.memory.trajectories.episodes import latest_episode_id

    if which.upper() == "LAST":
        number = latest_episode_id(store)
        if number is None:
            raise UnknownError(f"no episode was played in {store.home} yet: start with `perdure run`")
        return number
    if which.isascii() and which.isdigit():
        return int(which)
    raise InputError(f"{which!r} is no episode: give its number, as `perdure episode list` shows it, or LAST")


def _print_episode(played: Episode, rewards: Mapping[str, float]) -> None:
    ended = played.stop_reason or "still running"
    success = "success" if played.success else "no success"
    click.echo(f"episode {played.id}  {played.environment}  seed {played.seed}  {played.purpose}")
    click.echo(f"{played.state} ({ended}): return {played.total_reward:g}, {success}, temperature {played.temperature:g}")
    if rewards:
        click.echo("rewarded afterwards: " + ", ".join(f"{value:g} by {visible(source)}" for source, value in rewards.items()))
    if played.seat:
        click.echo(f"seat {played.seat}: it played against seat 0 of the same task, and is not counted")
    if played.error:
        click.echo(f"error: {visible(played.error)}")
    if played.instructions is not None:
        click.echo(f"instructions of its task: {visible(played.instructions)}")
    for n, turn in enumerate(played.turns):
        click.echo(f"\nturn {n}, sampled by {turn.sampler}, ended by {'itself' if turn.finish == 'stop' else 'the token limit'}")
        click.echo(_indented("observation", turn.observation))
        click.echo(_indented("action", turn.action))
        if turn.invalid is not None:
            click.echo(_indented("no action", turn.invalid))
        click.echo(f"  reward       {turn.reward:g}")
        click.echo(f"  prompt       {len(turn.prompt_ids)} tokens (all of them with --json)")
        click.echo(f"  action ids   {' '.join(map(str, turn.action_ids))}")
        click.echo(f"  log-probs    {' '.join(f'{logprob:.3f}' for logprob in turn.logprobs)}")


def _indented(name: str, text: str) -> str:
    return f"  {name:<11}  " + visible(text).replace("\n", "\n" + " " * 15)
