"""One run of a table, arranged so that metrics can read it: the R matrix, the items behind it, and the curves within its stages.

The score of a subject is the mean over its items; an item with several answers has their mean. Left out: the metrics themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from perdure.agent.metrics.observation import BASE, BASE_ARM, SINGLE_ARM, Observation, ResultTable, RunName, StageFacts, runs

MAIN_MEASURES = ("sampled", "success", "greedy", "choice")
"""The score of a subject is that of the first of these that it has."""
TASK_MEASURES = frozenset({"sampled", "success", "greedy"})
"""Only environments have them."""
PANEL_MEASURES = frozenset({"choice", "strict", "lenient", "cued", "cross_entropy"})
"""Skills of the panel have them."""
MAIN = "main"
DEV_SUFFIX = "_dev"
"""Of measures on dev tasks, which choose rates and checkpoints."""


Place = tuple[int, str]
"""Stage and subject."""


class Point(NamedTuple):
    """One check within a stage."""

    update: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreMatrix:
    """R: the mean score of each subject after each stage. Stage 0 is the base, which has learned nothing."""

    stages: int
    """T, the number of the last stage."""
    scores: Mapping[Place, float]
    """By stage and subject; what was not measured is missing."""
    learned: Mapping[str, int]
    """The stage that learned a subject, the last one if there are several; subjects that were never a target are missing."""
    first: Mapping[str, int]
    """The first stage that learned it."""
    skills: frozenset[str] = frozenset()
    """The subjects that are skills of the panel; all others are environments."""

    def at(self, stage: int, subject: str) -> float | None:
        return self.scores.get((stage, subject))

    def change(self, subject: str, since: int, until: int) -> float | None:
        """R[until][subject] - R[since][subject]; None unless both were measured."""
        if (since, subject) not in self.scores or (until, subject) not in self.scores:
            return None
        return self.scores[until, subject] - self.scores[since, subject]

    def subjects(self) -> list[str]:
        """All that were measured, in the order in which they first were."""
        return list(dict.fromkeys(subject for _, subject in self.scores))

    def environments(self) -> list[str]:
        """The same without the skills of the panel."""
        return [subject for subject in self.subjects() if subject not in self.skills]

    def is_non_target(self, subject: str) -> bool:
        """Whether it is an environment that was never a target: what `drop` is about."""
        return subject not in self.learned and subject not in self.skills


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreBook:
    """All scores of a run under one measure."""

    matrix: ScoreMatrix
    items: Mapping[Place, Mapping[str, float]]
    """At stage ends: the mean score of each item, by stage and subject."""
    answers: Mapping[Place, Mapping[str, Sequence[float]]]
    """The same with every answer to an item."""
    curves: Mapping[Place, Sequence[Point]]
    """Checks within a stage, by stage and subject, in order; its start is update 0, and its end the number of its updates if known.
    Checks after that end are of updates that the run made and did not deliver."""
    updates: Mapping[int, int]
    """By stage: the number of updates of what the stage delivered, if known."""

    def on_the_way(self, stage: int, subject: str) -> list[Point]:
        """The checks within a stage up to the version that it delivered."""
        points = self.curves.get((stage, subject), ())
        return [point for point in points if stage not in self.updates or point.update <= self.updates[stage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """One run."""

    name: RunName
    books: Mapping[str, ScoreBook]
    """By measure; `main` has the main measure of each subject."""
    facts: Sequence[StageFacts]
    """In the order of the stages."""

    @property
    def main(self) -> ScoreBook:
        return self.books[MAIN]

    def book(self, measure: str) -> ScoreBook | None:
        return self.books.get(measure)


def measured_runs(table: ResultTable, main_measures: Sequence[str] = MAIN_MEASURES) -> list[MeasuredRun]:
    """All runs of a table, in the order in which they first appear; an arm `base` that has only stage 0 is no run of its own."""
    rows: dict[RunName, list[Observation]] = defaultdict(list)
    facts: dict[RunName, list[StageFacts]] = defaultdict(list)
    for row in table.observations:
        rows[row.run].append(row)
    for fact in table.facts:
        facts[fact.run].append(fact)
    bases: dict[int, list[Observation]] = {}
    for name, found in rows.items():
        if name.arm == BASE_ARM:
            bases.setdefault(name.seed, [row for row in found if row.stage == BASE])
    found_runs = []
    for name in runs(table):
        own = rows[name]
        if name.arm == BASE_ARM and not facts[name] and all(row.stage == BASE for row in own):
            continue
        if not any(row.stage == BASE for row in own):
            own = [*bases.get(name.seed, ()), *own]
        found_runs.append(measured_run(name, own, facts[name], main_measures))
    return found_runs


def measured_run(
    name: RunName, rows: Iterable[Observation], facts: Sequence[StageFacts], main_measures: Sequence[str] = MAIN_MEASURES
) -> MeasuredRun:
    """One run from its rows."""
    by_measure: dict[str, list[Observation]] = defaultdict(list)
    for row in rows:
        by_measure[row.measure].append(row)
    main_of: dict[str, str] = {}
    for measure in reversed(main_measures):
        main_of.update({row.subject: measure for row in by_measure.get(measure, ())})
    chosen = [row for measure in main_measures for row in by_measure.get(measure, ()) if main_of[row.subject] == measure]
    in_order, skills = sorted(facts, key=lambda fact: fact.stage), _skills(by_measure)
    rows_of = {**by_measure, MAIN: chosen}
    from_base = name.arm == SINGLE_ARM
    books = {measure: score_book(found, in_order, skills, from_base=from_base) for measure, found in rows_of.items()}
    return MeasuredRun(name=name, books=books, facts=in_order)


def _skills(by_measure: Mapping[str, Sequence[Observation]]) -> frozenset[str]:
    """The subjects with a score of the panel and none of a task."""
    tasks, panel = (
        {row.subject for measure in measures for row in by_measure.get(measure, ())} for measures in (TASK_MEASURES, PANEL_MEASURES)
    )
    return frozenset(panel - tasks)


def score_book(
    rows: Iterable[Observation], facts: Sequence[StageFacts], skills: frozenset[str] = frozenset(), *, from_base: bool = False
) -> ScoreBook:
    """The scores of rows that have one measure, or one measure a subject.

    `skills` are those of the panel; `from_base` says that every stage begins from the base, and not where the one before ended.
    """
    ends: dict[Place, dict[str, list[float]]] = {}
    checks: dict[Place, dict[int, dict[str, list[float]]]] = {}
    for row in rows:
        place = (row.stage, row.subject)
        answers = ends.setdefault(place, {}) if row.update is None else checks.setdefault(place, {}).setdefault(row.update, {})
        answers.setdefault(row.item, []).append(row.score)
    items = {place: {item: fmean(answers) for item, answers in found.items()} for place, found in ends.items()}
    scores = {place: fmean(found.values()) for place, found in items.items()}
    learned = {target: fact.stage for fact in facts for target in fact.targets}
    first = {target: fact.stage for fact in reversed(facts) for target in fact.targets}
    stages = max([stage for stage, _ in scores] + [fact.stage for fact in facts], default=BASE)
    updates = {fact.stage: fact.updates for fact in facts if fact.updates > 0}
    matrix = ScoreMatrix(stages=stages, scores=scores, learned=learned, first=first, skills=skills)
    return ScoreBook(
        matrix=matrix, items=items, answers=ends, curves=_curves(checks, scores, updates, from_base=from_base), updates=updates
    )


def _curves(
    checks: Mapping[Place, Mapping[int, Mapping[str, Sequence[float]]]],
    scores: Mapping[Place, float],
    updates: Mapping[int, int],
    *,
    from_base: bool,
) -> dict[Place, list[Point]]:
    """The checks, completed by what the stage began from and by its own end, if these are known."""
    curves = {}
    for (stage, subject), by_update in checks.items():
        points = {update: fmean(fmean(answers) for answers in found.values()) for update, found in by_update.items()}
        before, after = scores.get((BASE if from_base else stage - 1, subject)), scores.get((stage, subject))
        if before is not None:
            points.setdefault(0, before)
        if after is not None and stage in updates:
            points.setdefault(updates[stage], after)
        curves[stage, subject] = [Point(update, points[update]) for update in sorted(points)]
    return curves
