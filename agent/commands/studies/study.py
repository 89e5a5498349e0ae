"""`perdure study`: studies that come with Perdure, run cell by cell and kept."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.agent.commands.studies.study_report import compare, keep_option, report
from perdure.agent.show.terminal import SummaryGroup, json_option, print_json, print_table, report_option
from perdure.agent.show.terminal import report_progress as say
from perdure.memory.errors import InputError

if TYPE_CHECKING:
    from perdure.agent.studies.catalogue import ReadyStudy
    from perdure.agent.studies.cells import CellPlace, CellResult
    from perdure.memory.json_value import Document


def _address(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    """An address of a cluster, or none at all."""
    from perdure.agent.cluster.cluster_settings import check_address

    if given == "":
        raise click.BadParameter("it is empty: local, auto or HOST:PORT")
    try:
        return given and check_address(given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.group(cls=SummaryGroup)
def study() -> None:
    """Run studies: many runs under stated conditions, kept part by part.

    \b
    Example:
      perdure study run lives
    """


@study.command()
@click.argument("name", metavar="NAME|FILE")
@click.option("--small", is_flag=True, help="The short form of a study that comes with Perdure, for two cores.")
@click.option("--hours", type=click.FloatRange(min=0.001, max=1000), help="life: how long the daemon runs. [default: 0.5]")
@click.option(
    "--seeds",
    type=click.IntRange(1, 10_000),
    help="life: how many lives [default: 3]. lives: how many a row [default: 100]. mode-seeking: how many an arm [default: 5].",
)
@click.option(
    "--cluster",
    metavar="ADDRESS",
    callback=_address,
    help="Do the cells on a Ray cluster: local to start one here, auto for one that `ray start` began here, or HOST:PORT.",
)
@click.option("--alone", is_flag=True, help="life: without the naive life and the joint job beside it.")
@keep_option
@report_option
@click.pass_context
def run(
    ctx: click.Context,
    name: str,
    small: bool,
    hours: float | None,
    seeds: int | None,
    cluster: str | None,
    alone: bool,
    keep: Path,
    as_json: bool,
) -> None:
    """Run a study that comes with Perdure, or of a TOML file, or what is left of it.

    lives simulates homes over fifty jobs, with the real planner and gate on a model of skills: minutes on one core. life runs the daemon
    on the default stream in homes of its own, then probes every version, and does the same jobs naively (no gate, no replay) and all
    environments in one joint job: about three times the hours in all, or little more than the hours with --alone, and the machine for
    itself. mode-seeking fits the paper's mixture of two modes with forward and reverse KL, and varies what its result rests on: less than
    a minute. retaining-by-doing, long-stream, general-prompts and family run the real learners as a file says: hours on two cores with
    --small, else days or a GPU (docs/studies.md). With --cluster other machines do the cells (docs/cluster.md). A study that is stopped
    continues where it was: what is finished is not done again.
    Progress goes to stderr. Exit code 1 if a result that must be reached is not, 3 if a part failed.

    \b
    Example:
      perdure study run lives --json
      perdure study run life --hours 0.5 --seeds 3 --keep /var/lib/perdure-studies
      perdure study run my-grid.toml
      perdure study run mode-seeking --cluster local
    """
    from perdure.agent.studies.catalogue import StudySettings, prepare_study
    from perdure.agent.studies.elsewhere.cell_order import asked
    from perdure.agent.studies.elsewhere.open_cluster_cells import open_cluster_cells
    from perdure.agent.studies.local_cells import LocalCells
    from perdure.agent.studies.run_cells import run_study
    from perdure.agent.studies.study_file import open_study

    settings = StudySettings(hours=hours, seeds=seeds, small=small, alone=alone)
    prepared, told = prepare_study(name, settings), asked(name, settings)
    name = prepared.study.name
    folder = keep.expanduser().absolute() / name
    with open_study(folder) as file:
        here = LocalCells(folder=folder, say=say)
        opened: AbstractContextManager[CellPlace] = (
            open_cluster_cells(cluster, prepared.study, told, here) if cluster else nullcontext(here)
        )
        with opened as place:
            results = run_study(prepared.study, file, say, place)
    done = {cell: result for cell, result in results.items() if result.error is None}
    failed = {cell: result.error for cell, result in results.items() if result.error is not None}
    summary = prepared.summarise(results)
    plots = _plots(prepared, summary, folder) if done else []
    (folder / f"{name}.json").write_text(_indented(summary))
    if prepared.page is not None and done:
        (folder / f"{name}.md").write_text(prepared.page(summary, plots))
    document = {
        **summary,
        "cells": {"done": len(done), "failed": failed},
        "folder": str(folder),
        "plots": [str(path) for path in plots],
    }
    if as_json:
        print_json(document)
    else:
        prepared.show(document)
        _tell_of(results, folder, document["plots"])
    ctx.exit(3 if failed else 0 if document.get("ok", True) else 1)


@study.command("list")
@keep_option
@json_option
def list_(keep: Path, as_json: bool) -> None:
    """List the studies, and what is finished of each.

    \b
    Example:
      perdure study list
    """
    from perdure.agent.studies.listed_studies import list_studies

    listed = [one.as_json() for one in list_studies(keep.expanduser().absolute())]
    if as_json:
        print_json(listed)
        return
    rows = [(row["name"], row["done"], row["failed"], row["error"] or row["about"]) for row in listed]
    print_table(("study", "cells done", "failed", "what it is"), rows)


study.add_command(report)
study.add_command(compare)


def _plots(prepared: ReadyStudy, summary: Document, folder: Path) -> list[Path]:
    """Draw what can be drawn; without matplotlib it is said, and the numbers stay."""
    if prepared.plot is None:
        return []
    try:
        return prepared.plot(summary, folder)
    except InputError as error:
        say(str(error))
        return []


def _tell_of(results: dict[str, CellResult], folder: Path, plots: list[str]) -> None:
    from perdure.agent.studies.provenance import made_by

    others = sorted({result.made_by for result in results.values()} - {made_by()})
    if others:
        click.echo(f"parts were made by {', '.join(others)}, and this program is {made_by()}: delete {folder} to make all anew")
    for path in plots:
        click.echo(f"plot: {path}")
    click.echo(f"kept in {folder}")


def _indented(document: object) -> str:
    import json

    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"
