"""`perdure store`: check, back up, export, import, archive and prune. All but the last two work while a daemon runs."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.agent.show.terminal import (
    SummaryGroup,
    config_option,
    home_option,
    print_json,
    print_table,
    report_option,
    report_progress,
    say,
    visible,
)
from perdure.memory.errors import InputError, PerdureError

if TYPE_CHECKING:
    from perdure.memory.records import Purpose
    from perdure.memory.upkeep.check_digests import Progress, Visit
    from perdure.memory.upkeep.integrity import Breach

TOKENS_RULE = "tokens-and-texts"
PURPOSES = ("live", "learn", "hinted", "replay", "gate", "probe")
DAY_S = 86400.0
PROGRESS_S = 2.0
"""How often a long check says how far it is."""

_UNITS_S = {"d": DAY_S, "h": 3600.0, "m": 60.0, "s": 1.0}


def _age_s(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """A length of time, such as 30d, in seconds; a number alone is days."""
    number, unit = (value[:-1], value[-1]) if value[-1:] in _UNITS_S else (value, "d")
    try:
        age_s = float(number) * _UNITS_S[unit]
    except ValueError:
        age_s = math.nan
    if not 0 <= age_s < math.inf:
        raise click.BadParameter(f"{value!r} is no length of time: write 30d, 12h, 90m or 0d", ctx, param)
    return age_s


file_argument = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
force_option = click.option("--force", is_flag=True, help="Replace an existing file.")


@click.group(cls=SummaryGroup)
def store() -> None:
    """Check the store, back it up, export, import, archive and prune episodes.

    \b
    Example:
      perdure store check
    """


@store.command()
@click.option("--tokens/--no-tokens", default=True, help="Compare texts with their tokens, if the model is on this machine.")
@home_option
@report_option
@click.pass_context
def check(ctx: click.Context, tokens: bool, home: Path, as_json: bool) -> None:
    """Check the database, its rows, the files of versions, archives and shards. Exit code 1 if something is broken.

    \b
    Example:
      perdure store check
    """
    from perdure.agent.commands.history.stored_texts import text_visit, visit_shards
    from perdure.memory.leases import BootClock
    from perdure.memory.store import open_store
    from perdure.memory.upkeep import integrity as rules

    skipped: dict[str, str] = {}
    differing: list[Breach] = []
    with open_store(home, reading=True) as opened:
        visit: Visit | None = None
        if not tokens:
            skipped[TOKENS_RULE] = "--no-tokens was given"
        else:
            try:
                visit = text_visit(opened, differing)
            except PerdureError as error:
                skipped[TOKENS_RULE] = str(error)
        report_progress("reading the whole store")
        findings = rules.check(opened, BootClock(), _progress(), visit, on_two_cores=True)
        seen = rules.checked_counts(opened)
        if visit is not None and any(finding.level == "error" for finding in findings):
            skipped[TOKENS_RULE] = "mend the errors first"
        elif visit is not None:
            visit_shards(opened, visit, differing, _progress("episodes in shards"))
            findings += rules.listed(TOKENS_RULE, differing)
    ok = all(finding.level != "error" for finding in findings)
    if as_json:
        print_json({"ok": ok, "findings": [finding.as_json() for finding in findings], "looked_at": seen, "skipped": skipped})
    else:
        if findings:
            print_table(("level", "rule", "where", "finding"), [(row.level, row.rule, row.subject, row.message) for row in findings])
        for rule, why in skipped.items():
            click.echo(f"{rule} was not checked: {why}")
        click.echo(f"{opened.home} " + ("is whole." if ok else "is broken: stop what runs in it, and restore a backup or mend it."))
    ctx.exit(0 if ok else 1)


@store.command()
@file_argument
@force_option
@home_option
@report_option
@click.pass_context
def backup(ctx: click.Context, path: Path, force: bool, home: Path, as_json: bool) -> None:
    """Copy the database to FILE, and its adapters and shards to folders beside it, at any time. Exit code 1 if one is missing.

    \b
    Example:
      perdure store backup nightly.db --force
    """
    from perdure.memory.store import open_store
    from perdure.memory.upkeep.backup import backup as copy

    with open_store(home, reading=True) as opened:
        made = copy(opened, path, replace=force)
    if as_json:
        print_json(made.as_json())
    else:
        beside = f", and {len(made.versions)} adapters beside it in {path.name}.versions" if made.versions else ""
        beside += f", and {made.shards} shards in {path.name}.history" if made.shards else ""
        click.echo(f"{path}: {made.episodes} episodes, {made.turns} turns, {_size(made.size_bytes)}{beside}. It was opened and checked.")
        for lack in made.lacks:
            click.echo(f"It lacks {lack.version}: {lack.why}", err=True)
        for why in made.shard_lacks:
            click.echo(f"It lacks a shard: {why}", err=True)
    ctx.exit(1 if made.lacks or made.shard_lacks else 0)


@store.command()
@click.option(
    "--format", "form", type=click.Choice(("parquet", "jsonl")), default="parquet", show_default=True, help="Typed columns, or text."
)
@click.option("--out", "path", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The file to write.")
@click.option("--env", "environment", metavar="ENV", help="Only episodes of this environment, by its full name.")
@click.option("--version", metavar="VERSION", help="Only episodes that this version played.")
@click.option("--purpose", type=click.Choice(PURPOSES), help="Only episodes that were played for this.")
@click.option("--since", type=click.DateTime(), help="Only episodes that began at or after this time (UTC).")
@force_option
@home_option
@report_option
@click.pass_context
def export(
    ctx: click.Context,
    form: str,
    path: Path,
    environment: str | None,
    version: str | None,
    purpose: Purpose | None,
    since: datetime | None,
    force: bool,
    home: Path,
    as_json: bool,
) -> None:
    """Write episodes with their turns, tokens and log-probs to a file, one row per episode. Exit code 1 if some could not be read.

    \b
    Example:
      perdure store export --format parquet --out episodes.parquet
      perdure store export --format jsonl --out live.jsonl --purpose live --since 2026-11-01
    """
    from perdure.memory.environments import require
    from perdure.memory.exchange.export import export as write
    from perdure.memory.store import open_store
    from perdure.memory.versions import get_version

    with open_store(home, reading=True) as opened:
        if environment is not None:
            require(opened, environment)
        if version is not None:
            get_version(opened, version)
        made = write(
            opened,
            path,
            "jsonl" if form == "jsonl" else "parquet",
            environment=environment,
            version=version,
            purpose=purpose,
            since=None if since is None else since.replace(tzinfo=UTC).timestamp(),
            replace=force,
        )
    if as_json:
        print_json(made.as_json())
    else:
        click.echo(f"{path}: {made.episodes} episodes, {made.turns} turns, {_size(made.size_bytes)}.")
    for why in made.lost_shards:
        click.echo(visible(f"{made.lost} episodes are left out: {why}"), err=True)
    ctx.exit(1 if made.lost else 0)


@store.command("import")
@file_argument
@click.option("--label", help="The origin, in your words. [default: the file's name]")
@click.option(
    "--form",
    type=click.Choice(("perdure", "openai", "atif", "sharegpt")),
    default="perdure",
    show_default=True,
    help="Whose form: ours, OpenAI's messages with tools, Harbor's trajectories, or ShareGPT's conversations.",
)
@home_option
@report_option
def import_(path: Path, label: str | None, form: str, home: Path, as_json: bool) -> None:
    """Import trajectories of another pipeline or agent, as Parquet or JSON (docs/store.md). They are kept apart from our own.

    \b
    Example:
      perdure store import traces.jsonl --label 'support desk, October'
      perdure store import chats.jsonl --form openai --label agent
    """
    from perdure.agent.changes.file_changes import note
    from perdure.agent.changes.person import person_here
    from perdure.agent.home import open_or_create
    from perdure.memory.exchange.import_traces import import_file

    label = path.stem if label is None else label
    if not label.strip():
        raise InputError("the label is empty: give --label the origin of the file")
    with open_or_create(home) as opened:
        came = import_file(opened, path, label, form)
        if came.new:
            asked = {"file": str(path), "label": label, "form": form}
            note(opened, person_here(), "store import", f"batch {came.batch}", asked)
    if as_json:
        print_json(came.as_json())
        return
    amount = f"{came.episodes} episodes, {came.turns} turns"
    if not came.new:
        click.echo(f"{path} was imported before, as batch {came.batch} ({came.label}: {amount}); nothing was changed.")
        return
    over = "".join(f"; {number} {reason} were skipped" for reason, number in came.passed_over.items())
    if came.mended:
        over += f"; {came.mended} had half of a character in a text, which became '?'"
    click.echo(f"Batch {came.batch} ({came.label}): {amount}{over}.")
    if came.unread:
        click.echo("Passed over: " + ", ".join(f"{key} ({number})" for key, number in sorted(came.unread.items())) + ".")


@store.command()
@click.option("--older-than", "age_s", required=True, callback=_age_s, metavar="AGE", help="Of episodes that began so long ago: 30d, 12h.")
@click.option("--to", metavar="S3", help="Into a bucket, s3://BUCKET/FOLDER, in place of the home.")
@click.option("--dry-run", is_flag=True, help="Only show what would be moved.")
@home_option
@report_option
@click.pass_context
def archive(ctx: click.Context, age_s: float, to: str | None, dry_run: bool, home: Path, as_json: bool) -> None:
    """Move the turns of old episodes into Parquet files; everything reads them from there. Exit code 1 if an episode is damaged.

    No daemon may run in the home meanwhile.

    \b
    Example:
      perdure store archive --older-than 30d --dry-run
      perdure store archive --older-than 30d
      perdure store archive --older-than 30d --to s3://my-bucket/perdure
    """
    from perdure.agent.changes.file_changes import note
    from perdure.agent.changes.person import person_here
    from perdure.agent.home import HomeLock
    from perdure.memory.history.archive import archive as move
    from perdure.memory.history.archive import plan_archive
    from perdure.memory.store import HISTORY, open_store

    before = time.time() - age_s
    with open_store(home) as opened:
        if dry_run:
            done = plan_archive(opened, before)
        else:
            with HomeLock(home):
                note(opened, person_here(), "store archive", "store", {"older_than_s": age_s, "to": to})
                done = move(opened, before, say, to=to)
    if as_json:
        print_json(done.as_json())
    elif dry_run:
        click.echo(
            f"{done.turns} turns of {done.episodes} episodes would move to {to or home / HISTORY}, about {_size(done.freed_bytes)} "
            f"would be freed, and {done.kept_turns} turns would stay in the database. Nothing was changed."
        )
    else:
        click.echo(
            f"{done.turns} turns of {done.episodes} episodes moved to {len(done.shards)} shards, {done.kept_turns} turns stay in the "
            f"database; {_size(done.freed_bytes)} freed."
        )
    for episode in done.damaged:
        click.echo(f"Episode {episode} differs from its digest and stays: `perdure store check` says where.", err=True)
    ctx.exit(1 if done.damaged else 0)


@store.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be moved.")
@click.option("--keep-days", type=click.FloatRange(min=0), help="Keep episodes of the last DAYS days. [default: 30]", metavar="DAYS")
@click.option("--keep-episodes", type=click.IntRange(min=0), help="Keep the newest N episodes instead.", metavar="N")
@home_option
@config_option
@report_option
def prune(dry_run: bool, keep_days: float | None, keep_episodes: int | None, home: Path, config_path: Path | None, as_json: bool) -> None:
    """Move old episodes to Parquet files under archive/ in the home, and free their space. Episodes that are still needed stay.

    No daemon may run in the home meanwhile.

    \b
    Example:
      perdure store prune --dry-run
      perdure store prune --keep-days 90
    """
    from perdure.agent.changes.file_changes import note
    from perdure.agent.changes.person import person_here
    from perdure.agent.config_file import load_config
    from perdure.agent.home import HomeLock
    from perdure.memory.store import ARCHIVE, open_store
    from perdure.memory.upkeep import prune as pruning

    if keep_days is not None and keep_episodes is not None:
        raise InputError("--keep-days and --keep-episodes exclude each other: give one of them")
    days = pruning.KEEP_DAYS if keep_days is None else keep_days
    keep = pruning.Keep(
        since=time.time() - days * DAY_S if keep_episodes is None else None,
        episodes=keep_episodes,
        live=max(pruning.KEEP_LIVE, load_config(config_path).config.learn.every_episodes),
    )
    with open_store(home) as opened:
        if dry_run:
            done = pruning.plan(opened, keep)
        else:
            with HomeLock(home):
                note(opened, person_here(), "store prune", "store", {"keep_days": keep_days, "keep_episodes": keep_episodes})
                done = pruning.prune(opened, keep, say)
    if as_json:
        print_json(done.as_json())
    elif dry_run:
        click.echo(
            f"{done.episodes} episodes with {done.turns} turns would move to {home / ARCHIVE}, about {_size(done.freed_bytes)} "
            f"would be freed, and {done.kept} episodes would stay. Nothing was changed."
        )
    else:
        click.echo(
            f"{done.episodes} episodes with {done.turns} turns moved to archives, {done.kept} stay; {_size(done.freed_bytes)} freed."
        )
        for path in done.archives:
            click.echo(str(path))


def _progress(of: str = "episodes") -> Progress:
    """Says every other second how far the check is, also to a pipe."""
    began = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= PROGRESS_S and (now - began) * (total - done) > done:
            last = now
            report_progress(f"{done} of {total} {of}; about {(now - began) * (total - done) / done:.0f} s more")

    return progress


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:.0f} KiB"
