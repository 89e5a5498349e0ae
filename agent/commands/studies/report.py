"""`perdure report`: the metrics of a home's own life."""

from __future__ import annotations

from pathlib import Path

import click

from perdure.agent.show.terminal import home_option, json_option, print_json


@click.command()
@home_option
@json_option
def report(home: Path, as_json: bool) -> None:
    """Tell what this home's learning gained, kept, lost and cost.

    The metrics of studies on the versions that served here: scores on held-out tasks by version, gain and drop, backward transfer,
    forgetting, recall, the capability panel, and the cost of every learning job, refused ones too. docs/metrics.md has the formulas.

    \b
    Example:
      perdure report
      perdure report --json
    """
    from perdure.agent.show.home_report import print_report, report_document
    from perdure.memory.store import open_store

    with open_store(home, reading=True) as store:
        document = report_document(store)
    if as_json:
        print_json(document)
    else:
        print_report(document)
