"""What a report is made of: a study's rows, arranged by stream and arm, and the estimates over seeds that all its sections show.

A study may have several *streams* (what an order is of: everything in its name before '/'), and each has a part of the page of its own.
The unit of every interval is the seed: orders of one stream are averaged first. With one seed an interval is over the items of its run, if
there is one run, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import fmean

from perdure.agent.metrics.arm_summary import SINGLE, MetricOfArm, metrics_by_arm
from perdure.agent.metrics.measured_run import MAIN, MAIN_MEASURES, MeasuredRun, ScoreBook, measured_runs
from perdure.agent.metrics.observation import BASE, FACTS, OBSERVATION, ResultTable, read_table
from perdure.agent.metrics.seed_intervals import MeanEstimate, estimate, estimate_over_items
from perdure.agent.studies.cells import CellResult
from perdure.agent.studies.life.life_rows import life_rows
from perdure.agent.studies.report.find_study import StoredStudy
from perdure.agent.studies.report.report_style import ArmLook, arm_look
from perdure.memory.errors import InputError

NATS = frozenset({"cross_entropy", "kl_new", "kl_old"})
"""Measures in nats a token."""
ArmMetrics = Mapping[str, Mapping[str, MetricOfArm]]
"""By arm and metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """A study, read and arranged."""

    study: StoredStudy
    table: ResultTable
    runs: Sequence[MeasuredRun]
    references: Sequence[MeasuredRun]
    """Runs on single subjects, which only stand beside others."""
    arms: Sequence[str]
    streams: Sequence[str]

    def of(self, stream: str, arm: str) -> list[MeasuredRun]:
        """The runs of an arm on a stream."""
        return [run for run in self.runs if run.name.arm == arm and stream_of(run) == stream]

    def arms_of(self, stream: str) -> list[str]:
        """The arms that have runs on a stream."""
        present = {run.name.arm for run in self.runs if stream_of(run) == stream}
        return [arm for arm in self.arms if arm in present]

    def look(self, arm: str) -> ArmLook:
        """How an arm is drawn."""
        return arm_look(self.arms.index(arm))


def report_data(study: StoredStudy, measure: str | None = None) -> ReportData:
    """Read a study. `measure`: the score of all subjects that have it, before the usual ones.

    Raises `InputError` if a row is damaged.
    """
    table = study_table(study.cells)
    every = measured_runs(table, MAIN_MEASURES if measure is None else (measure, *MAIN_MEASURES))
    runs = [run for run in every if run.name.arm != SINGLE] or every
    return ReportData(
        study=study,
        table=table,
        runs=runs,
        references=[run for run in every if run.name not in {own.name for own in runs}],
        arms=list(dict.fromkeys(run.name.arm for run in runs)),
        streams=list(dict.fromkeys(map(stream_of, runs))),
    )


def check_asked(data: ReportData, *, against: str | None, measure: str | None) -> None:
    """Raise `InputError` if an arm or a measure that is asked for is not in the study."""
    if against is not None and against not in data.arms:
        raise InputError(f"no arm {against}: the study {data.study.name} has {', '.join(data.arms) or 'none'}")
    measures = list(dict.fromkeys(name for run in data.runs for name in run.books if name != MAIN))
    if measure is not None and measure not in measures:
        raise InputError(f"no measure {measure}: the study {data.study.name} has {', '.join(measures) or 'none'}")


def study_table(cells: Mapping[str, CellResult]) -> ResultTable:
    """The observations and facts of a study's finished cells; those of a life are made from its history and probes."""
    documents = [row for result in cells.values() if result.error is None for row in result.rows]
    if any(row.get("kind") in (OBSERVATION, FACTS) for row in documents):
        return read_table(documents)
    return life_rows(cells)


def stream_of(run: MeasuredRun) -> str:
    """'' if the study has only one."""
    return run.name.order.split("/")[0]


def metrics_of(data: ReportData, stream: str) -> ArmMetrics:
    """Every metric of every arm on a stream."""
    own = [run for run in data.runs if stream_of(run) == stream]
    found = metrics_by_arm(own, beside=data.references)
    return {arm: found[arm] for arm in data.arms_of(stream)}


def over_seeds(values: Iterable[tuple[int, float]]) -> MeanEstimate | None:
    """The mean of values, each with the seed of its run; those of one seed are averaged first. None without any."""
    by_seed: dict[int, list[float]] = {}
    for seed, value in values:
        by_seed.setdefault(seed, []).append(value)
    return estimate([fmean(found) for found in by_seed.values()]) if by_seed else None


def level(runs: Sequence[MeasuredRun], stage: int | None, subject: str, measure: str = MAIN) -> MeanEstimate | None:
    """The score of a subject after a stage, or at the end of each run if that is None; None if no run has it."""
    found = [(run, book, at) for run, book, at in _at_stage(runs, stage, measure) if (at, subject) in book.matrix.scores]
    if len(found) == 1:
        ((_, book, at),) = found
        scores = list(book.items[at, subject].values())
        least, most = (0.0, 1.0) if is_score(measure, scores) else (-inf, inf)
        return estimate_over_items([scores], least=least, most=most)
    return over_seeds((run.name.seed, book.matrix.scores[at, subject]) for run, book, at in found)


def change(runs: Sequence[MeasuredRun], stage: int | None, subject: str, measure: str = MAIN) -> MeanEstimate | None:
    """The same minus the score of the base, each run against itself; None if no run has both."""
    found = [
        (run, book, at)
        for run, book, at in _at_stage(runs, stage, measure)
        if (at, subject) in book.matrix.scores and (BASE, subject) in book.matrix.scores
    ]
    if len(found) == 1:
        ((_, book, at),) = found
        before, after = book.items[BASE, subject], book.items[at, subject]
        most = 1.0 if is_score(measure, [*before.values(), *after.values()]) else inf
        return estimate_over_items([[after[item] - before[item] for item in after if item in before]], least=-most, most=most)
    return over_seeds((run.name.seed, book.matrix.scores[at, subject] - book.matrix.scores[BASE, subject]) for run, book, at in found)


def is_score(measure: str, values: Iterable[float]) -> bool:
    """Whether a measure lies in [0, 1], as these values of it do: then an interval of its mean ends there."""
    return measure not in NATS and all(0 <= value <= 1 for value in values)


def _at_stage(runs: Sequence[MeasuredRun], stage: int | None, measure: str) -> list[tuple[MeasuredRun, ScoreBook, int]]:
    books = [(run, book) for run in runs if (book := run.book(measure)) is not None]
    return [(run, book, book.matrix.stages if stage is None else stage) for run, book in books]


def last_stage(runs: Sequence[MeasuredRun]) -> int:
    return max((run.main.matrix.stages for run in runs), default=BASE)


def subjects_of(runs: Sequence[MeasuredRun]) -> list[str]:
    """All subjects: targets in the order in which they are learned, then the others as they first appear."""
    learned: dict[str, int] = {}
    for run in runs:
        for subject, stage in run.main.matrix.first.items():
            learned.setdefault(subject, stage)
    measured = list(dict.fromkeys(subject for run in runs for subject in run.main.matrix.subjects()))
    targets = [subject for subject in sorted(learned, key=lambda subject: learned[subject]) if subject in measured]
    return [*targets, *(subject for subject in measured if subject not in learned)]
