"""What a home's life comes to: the metrics of `agent/metrics/` on the versions that served, as one document and as tables.

It reads the store alone, with and without a daemon. Left out: how the rows are made (`agent/metrics/home_rows.py`), and what comes next
(`life_report.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean

import click

from perdure.agent.metrics.formulas.flips import count_flips, gained_share, lost_share
from perdure.agent.metrics.formulas.learning_speed import area_under_curve
from perdure.agent.metrics.home_rows import ServedStage, home_table, served_stages
from perdure.agent.metrics.item_bootstrap import metrics_over_items
from perdure.agent.metrics.measured_run import MeasuredRun, Point, measured_runs
from perdure.agent.metrics.metric_table import METRIC
from perdure.agent.metrics.observation import BASE
from perdure.agent.show.life_report import life_report
from perdure.agent.show.terminal import Cell, print_table, rounded
from perdure.learners.panel.panel_items import load_panel
from perdure.learners.panel.panel_limits import skill_scores
from perdure.memory.contracts.orders import Job
from perdure.memory.contracts.panel_results import Measure
from perdure.memory.contracts.results import LearnResult
from perdure.memory.json_value import Document, iso_utc
from perdure.memory.store import Store
from perdure.memory.versions import serving

LIMITED: tuple[Measure, ...] = ("choice", "cross_entropy")
PANEL_MEASURES: tuple[Measure, ...] = (*LIMITED, "strict", "lenient", "cued")
SHOWN_STAGES = 8
NOTES = {
    "seeds": "Gates draw fresh seeds: the scores of two versions are of different tasks, except on dev seeds, in probes and on the panel.",
    "chosen": "A version's scores include those of the gate that promoted it, which are somewhat too high for its targets.",
    "one life": "This is one life: the intervals are over tasks, and say nothing about another life (`perdure study` runs many).",
}

NOTHING_SCORED = "nothing was scored yet: a gate does it, and so does `perdure probe`"


def report_document(store: Store) -> Document:
    """The keys of `perdure report --json`. Raises `UnknownError` if no version serves yet."""
    name = serving(store).name
    stages = served_stages(store)
    table = home_table(store, stages)
    run = next(iter(measured_runs(table)))
    life = life_report(store)
    return {
        "home": str(store.home),
        "serving": name,
        "stages": [_stage_document(stage) for stage in stages],
        "scores": _score_document(run),
        "metrics": _metric_document(run),
        "panel": _panel_document(run, _choices(store)),
        "jobs": [_job_document(job) for stage in stages for job in stage.jobs],
        "life": None if life is None else asdict(life.statement),
        "notes": [*_rollback_notes(stages), *(NOTES.values() if run.main.items else (NOTHING_SCORED,))],
    }


def _rollback_notes(stages: Sequence[ServedStage]) -> list[str]:
    undone = list(dict.fromkeys(stage.version for stage in stages if stage.undone and stage.targets))
    return [f"Rolled back: {', '.join(undone)}. What was learned there counts neither as learned nor as forgotten."] if undone else []


def print_report(document: Document) -> None:
    """The same as tables."""
    stages: Sequence[Document] = document["stages"]
    shown = stages if len(stages) <= SHOWN_STAGES else [stages[0], *stages[1 - SHOWN_STAGES :]]
    moved = len(stages) - 1
    click.echo(
        f"{document['serving']} serves in {document['home']}, after {moved} {'move' if moved == 1 else 'moves'} of the serving version"
    )
    if document["scores"]:
        columns = ("", *(f"{stage['version']}{_of_rollback(stage)}" for stage in shown))
        rows = [
            (subject, *(_score_cell(by_stage.get(str(stage["stage"])), subject in stage["targets"]) for stage in shown))
            for subject, by_stage in document["scores"].items()
        ]
        print_table(columns, rows, title="\nScores of the versions that served (tasks); * is what a version learned")
    if document["metrics"]:
        print_table(
            ("metric", "value", "from", "to", "not worse than", "tasks", "unit", "better"),
            [_metric_row(row) for row in document["metrics"].values()],
            title="\nMetrics, with 95 % intervals over tasks",
        )
    if document["panel"]:
        print_table(
            ("skill", "measure", "base", "before", "now", "items", "lost", "gained", ""),
            _panel_rows(document["panel"]),
            title="\nCapability panel; lost and gained are items since the base",
        )
    if document["jobs"]:
        print_table(
            ("job", "learner", "targets", "updates", "start", "best", "area", "KL old", "verdict"),
            [_job_row(job) for job in document["jobs"]],
            title="\nLearning jobs: scores of the targets at their checks, on dev seeds",
        )
    click.echo("")
    for note in document["notes"]:
        click.echo(note)


def _stage_document(stage: ServedStage) -> Document:
    costs = [job.result.cost for job in stage.jobs if isinstance(job.result, LearnResult)]
    return {
        "stage": stage.stage,
        "version": stage.version,
        "kind": stage.move.kind,
        "targets": list(stage.targets),
        "rolled_back": stage.undone,
        "reason": stage.move.reason,
        "moved": iso_utc(stage.move.moved),
        "jobs": [job.id for job in stage.jobs],
        "updates": sum(cost.updates for cost in costs),
        "tokens": sum(cost.sampled_tokens + cost.learned_tokens for cost in costs),
        "seconds": sum(cost.sampling_s + cost.learning_s for cost in costs),
    }


def _score_document(run: MeasuredRun) -> Document:
    """By subject and stage: mean score and number of tasks."""
    book, found = run.main, dict[str, Document]()
    for (stage, subject), score in book.matrix.scores.items():
        found.setdefault(subject, {})[str(stage)] = {"score": score, "n": len(book.items[stage, subject])}
    return found


def _metric_document(run: MeasuredRun) -> Document:
    """By key; those that the home lacks the data for are missing."""
    return {
        key: {"name": METRIC[key].name, **found.estimate.as_json(), "bound": found.bound}
        | {"unit": METRIC[key].unit, "better": METRIC[key].better, "formula": METRIC[key].formula, "source": METRIC[key].source}
        for key, found in metrics_over_items(run).items()
    }


def _panel_document(run: MeasuredRun, choices: Mapping[str, float]) -> Document:
    """By skill and measure: base, version before and serving version on the items that all have, and the items that changed sides."""
    found: dict[str, Document] = {}
    for measure in PANEL_MEASURES:
        book = run.books.get(measure)
        for subject in book.matrix.subjects() if book is not None else ():
            assert book is not None
            base, now = book.items.get((BASE, subject), {}), book.items.get((book.matrix.stages, subject), {})
            before = book.items.get((book.matrix.stages - 1, subject), {}) if book.matrix.stages > BASE else base
            rows = [[base[item], before[item], now[item]] for item in now if item in base and item in before]
            if not rows:
                continue
            scores = skill_scores(subject, measure, rows)
            row: Document = {"base": scores.base, "before": scores.before, "now": scores.version, "n": scores.items}
            if measure in LIMITED:
                row["lost_against"] = list(scores.lost_against)
            if measure != "cross_entropy":
                flips = count_flips(base, now)
                row |= {"lost": flips.lost, "gained": flips.gained}
            if measure == "choice" and subject in choices:
                row["lost_beyond_guessing"] = lost_share(flips, choices[subject])
                row["gained_beyond_guessing"] = gained_share(flips, choices[subject])
            found.setdefault(subject, {})[measure] = row
    return found


def _choices(store: Store) -> dict[str, float]:
    """How many answers an item of each skill has to choose from, in the mean."""
    return {skill.name: fmean(1 + len(item.wrong) for item in skill.questions) for skill in load_panel(store.home) if skill.questions}


def _job_document(job: Job) -> Document:
    """A learning job: what it cost, and how its targets rose at the checks."""
    result = job.result
    assert isinstance(result, LearnResult)
    curve = []
    for check in result.selection.checks:
        scores = [found.score for found in check.targets.values() if found.score is not None]
        if scores:
            curve.append(Point(check.step, sum(scores) / len(scores)))
    drift = result.diagnostics.drift if result.diagnostics is not None else None
    return {
        "job": job.id,
        "learner": job.learner,
        "targets": list(job.targets),
        "candidate": result.version,
        "verdict": result.verdict,
        "updates": result.cost.updates,
        "tokens": result.cost.sampled_tokens + result.cost.learned_tokens,
        "seconds": result.cost.sampling_s + result.cost.learning_s,
        "start": curve[0].score if curve else None,
        "best": max((point.score for point in curve), default=None),
        "area": area_under_curve(curve),
        "kl_base_new": None if drift is None else drift.kl_base_new,
        "kl_base_old": None if drift is None else drift.kl_base_old,
    }


def _of_rollback(stage: Document) -> str:
    return " (rollback)" if stage["kind"] == "rollback" else ""


def _score_cell(found: Document | None, is_target: bool) -> str | None:
    return None if found is None else f"{found['score']:.2f} ({found['n']}){'*' if is_target else ''}"


def _metric_row(row: Document) -> tuple[Cell, ...]:
    low, high = row["low"], row["high"]
    value = rounded(row["value"]) if row["unit"] in ("updates", "tokens", "seconds") else f"{row['value']:.3f}"
    has_interval = low is not None and high is not None
    return (
        row["name"],
        value,
        f"{low:.3f}" if has_interval else None,
        f"{high:.3f}" if has_interval else None,
        None if row["bound"] is None else f"{row['bound']:.3f}",
        row["n"] if has_interval else None,
        row["unit"],
        row["better"],
    )


def _panel_rows(panel: Mapping[str, Document]) -> list[tuple[Cell, ...]]:
    return [
        (skill, measure, row["base"], row["before"], row["now"], row["n"], row.get("lost"), row.get("gained"), _forgotten(row))
        for skill, by_measure in panel.items()
        for measure, row in by_measure.items()
    ]


def _forgotten(row: Document) -> str:
    return "FORGOTTEN" if row.get("lost_against") else ""


def _job_row(job: Document) -> tuple[Cell, ...]:
    return (
        job["job"],
        job["learner"],
        ", ".join(job["targets"]),
        job["updates"],
        job["start"],
        job["best"],
        job["area"],
        job["kl_base_old"],
        job["verdict"],
    )
