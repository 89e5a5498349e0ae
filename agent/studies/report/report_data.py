"""What a report is made of: a study's rows, arranged by stream and arm, and the estimates over runs that all its sections show.

A study may have several *streams* (what an order is of: everything in its name before '/'), and each has a part of the page of its own.
Orders of one stream are pooled: the unit of every interval is a run, one order with one seed. The base is the same for all orders of a
seed, and counts once a seed. With one run an interval is over its items, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from perdure.agent.metrics.measured_run import MAIN, MAIN_MEASURES, MeasuredRun, ScoreBook, measured_runs
from perdure.agent.metrics.metric_table import run_metrics
from perdure.agent.metrics.observation import BASE, FACTS, OBSERVATION, ResultTable, read_table
from perdure.agent.metrics.run_readings import RunsBeside
from perdure.agent.metrics.seed_intervals import Estimate, estimate, estimate_over_items
from perdure.agent.studies.cells import CellResult
from perdure.agent.studies.life.life_rows import life_rows
from perdure.agent.studies.report.find_study import StoredStudy
from perdure.agent.studies.report.report_style import ArmLook, arm_look

DEV_SUFFIX = "_dev"
"""Of measures on dev tasks, which choose rates and checkpoints."""
JOINT, SINGLE, STATELESS = "joint", "single", "stateless"
"""Arms of these names are what others are compared with in transfer and intransigence."""

RunKey = tuple[str, int]
"""Order and seed: what pairs the runs of two arms."""
MetricValues = Mapping[str, Mapping[str, Mapping[RunKey, float]]]
"""By metric, arm and run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """A study, read and arranged."""

    study: StoredStudy
    table: ResultTable
    runs: Sequence[MeasuredRun]
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
    runs = measured_runs(table, MAIN_MEASURES if measure is None else (measure, *MAIN_MEASURES))
    return ReportData(
        study=study,
        table=table,
        runs=runs,
        arms=list(dict.fromkeys(run.name.arm for run in runs)),
        streams=list(dict.fromkeys(map(stream_of, runs))),
    )


def study_table(cells: Mapping[str, CellResult]) -> ResultTable:
    """The observations and facts of a study's finished cells; those of a life are made from its history and probes."""
    documents = [row for result in cells.values() if result.error is None for row in result.rows]
    if any(row.get("kind") in (OBSERVATION, FACTS) for row in documents):
        return read_table(documents)
    return life_rows(cells)


def stream_of(run: MeasuredRun) -> str:
    """'' if the study has only one."""
    return run.name.order.split("/")[0]


def key_of(run: MeasuredRun) -> RunKey:
    return (run.name.order, run.name.seed)


def level(runs: Sequence[MeasuredRun], stage: int, subject: str, measure: str = MAIN) -> Estimate | None:
    """The score of a subject after a stage, over runs; None if no run has it."""
    found = [
        (run, score) for run in runs if (book := run.book(measure)) is not None and (score := book.matrix.at(stage, subject)) is not None
    ]
    if not found:
        return None
    if stage == BASE:
        by_seed: dict[int, list[float]] = {}
        for run, score in found:
            by_seed.setdefault(run.name.seed, []).append(score)
        values = [fmean(scores) for scores in by_seed.values()]
    else:
        values = [score for _, score in found]
    return estimate(values) if len(values) > 1 else _over_items(found[0][0], stage, subject, measure)


def change(runs: Sequence[MeasuredRun], stage: int, subject: str, measure: str = MAIN, since: int = BASE) -> Estimate | None:
    """The score after a stage minus that after an earlier one, each run against itself; None if no run has both."""
    found: list[tuple[ScoreBook, float]] = []
    for run in runs:
        book = run.book(measure)
        if book is not None:
            before, after = book.matrix.at(since, subject), book.matrix.at(stage, subject)
            if before is not None and after is not None:
                found.append((book, after - before))
    if len(found) != 1:
        return estimate([value for _, value in found]) if found else None
    ((book, _),) = found
    items_before, items_after = book.items[since, subject], book.items[stage, subject]
    return estimate_over_items([[items_after[item] - items_before[item] for item in items_after if item in items_before]])


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


def metric_values(data: ReportData, stream: str) -> MetricValues:
    """Every metric of every run on a stream; what a run lacks is missing."""
    found: dict[str, dict[str, dict[RunKey, float]]] = {}
    runs = [run for run in data.runs if stream_of(run) == stream]
    for run in runs:
        for key, value in run_metrics(run, _beside(run, runs)).items():
            if value is not None:
                found.setdefault(key, {}).setdefault(run.name.arm, {})[key_of(run)] = value
    return found


def _beside(run: MeasuredRun, runs: Sequence[MeasuredRun]) -> RunsBeside:
    same_seed = [other for other in runs if other.name.seed == run.name.seed and other.name.arm != run.name.arm]

    def named(word: str) -> list[MeasuredRun]:
        return [other for other in same_seed if other.name.arm.split(" ")[0] == word]

    return RunsBeside(joint=named(JOINT), single=named(SINGLE), stateless=named(STATELESS))


def _over_items(run: MeasuredRun, stage: int, subject: str, measure: str) -> Estimate | None:
    return estimate_over_items([list(run.books[measure].items[stage, subject].values())])
