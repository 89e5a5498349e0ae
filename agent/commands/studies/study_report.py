"""`perdure study report` and `perdure study compare`: what studies have come to."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.agent.show.terminal import json_option, print_json, report_option
from perdure.agent.show.terminal import report_progress as say
from perdure.memory.errors import InputError, RuntimeFailure

DEFAULT_FOLDER = Path("studies")
REPORT_FOLDER = "report"
"""In the study's folder."""

keep_option = click.option(
    "--keep",
    type=click.Path(path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Folder that keeps what is finished; a study has a folder of its own in it.",
)


@click.command()
@click.argument("wanted", metavar="NAME|DIR|LAST")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the files. [default: report in the study's folder]")
@click.option("--against", metavar="ARM", help="The arm that others are compared with. [default: the first]")
@click.option("--measure", help="The score to show of everything that has it, such as strict. [default: sampled, success, greedy, choice]")
@keep_option
@report_option
def report(wanted: str, out: Path | None, against: str | None, measure: str | None, keep: Path, as_json: bool) -> None:
    """Write what a study has come to so far: one HTML page that needs nothing else, and its rows as CSV and Parquet.

    LAST is the study with the newest result. The page has the metrics of every arm with their intervals, the claims, gain against drop,
    the scores after every stage, curves, KL against forgetting, the gate, the panel and the costs, as far as the study has them. Its plots
    need the extra `study`; without it the page has all numbers as tables. What stood there is replaced.

    \b
    Example:
      perdure study report LAST
      perdure study report long-stream --against naive --out results
    """
    from perdure.agent.studies.provenance import made_by
    from perdure.agent.studies.report.find_study import find_study, load_study
    from perdure.agent.studies.report.observation_files import write_rows
    from perdure.agent.studies.report.report_data import check_asked, report_data
    from perdure.agent.studies.report.report_page import report_page
    from perdure.agent.studies.report.svg_panel import check_plotting
    from perdure.memory.files import making

    study = load_study(find_study(wanted, keep.expanduser().absolute()))
    data = report_data(study, measure)
    check_asked(data, against=against, measure=measure)
    with_plots = True
    try:
        check_plotting()
    except InputError as error:
        say(str(error))
        with_plots = False
    folder = (out or study.folder / REPORT_FOLDER).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeFailure(f"cannot write to {folder}: {error.strerror}; name another folder with --out") from error
    page = folder / f"{study.name}.html"
    with making(page, replace=True) as path:
        path.write_text(report_page(data, with_plots=with_plots, made_by=made_by(), against=against), encoding="utf-8")
    files = write_rows(data.table, folder) if data.table.observations or data.table.facts else []
    failed = {name: result.error for name, result in study.cells.items() if result.error is not None}
    document = {
        "study": study.name,
        "page": str(page),
        "files": [str(path) for path in files],
        "plots": with_plots,
        "arms": list(data.arms),
        "runs": len(data.runs),
        "observations": len(data.table.observations),
        "cells": {"done": len(study.cells) - len(failed), "failed": failed},
    }
    if as_json:
        print_json(document)
        return
    counts = f"{len(data.table.observations)} observations of {len(data.runs)} runs"
    click.echo(f"{counts}, {len(study.cells) - len(failed)} cells done, {len(failed)} failed")
    for path in (page, *files):
        click.echo(str(path))


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--arms", nargs=2, metavar="A_ARM B_ARM", help="Two arms to compare, that of A and that of B; A and B may be one study.")
@click.option("--all", "show_all", is_flag=True, help="Show every metric and measure; --json always has them.")
@keep_option
@json_option
def compare(a: str, b: str, arms: tuple[str, str] | None, show_all: bool, keep: Path, as_json: bool) -> None:
    """Compare two studies on what both observed: the same arms, orders and seeds, and of those the same items.

    A and B are names of studies, their folders, or LAST. Every difference is B - A with its 95 % interval, paired by seed, or by item if
    there is only one run; where none is shown, it says how many seeds would show one of this size.

    \b
    Example:
      perdure study compare long-stream /old/studies/long-stream
      perdure study compare LAST LAST --arms naive grpo --json
    """
    from perdure.agent.show.comparison_table import print_comparison
    from perdure.agent.studies.report.comparison import as_document, compare_studies
    from perdure.agent.studies.report.find_study import find_study, load_study
    from perdure.agent.studies.report.report_data import study_table

    studies = [load_study(find_study(wanted, keep.expanduser().absolute())) for wanted in (a, b)]
    tables = [study_table(study.cells) for study in studies]
    for study, table in zip(studies, tables, strict=True):
        if not table.observations:
            raise InputError(f"the study in {study.folder} has no observations to compare: its summary is in `perdure study report`")
    found = compare_studies(tables[0], tables[1], arms)
    if as_json:
        about = [
            {"study": study.name, "folder": str(study.folder), "made_by": sorted({result.made_by for result in study.cells.values()})}
            for study in studies
        ]
        print_json({"a": about[0], "b": about[1], **as_document(found)})
        return
    print_comparison(found, show_all=show_all)
