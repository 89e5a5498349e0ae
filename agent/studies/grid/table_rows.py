"""What was measured, as rows of the metrics' table (`agent/metrics/observation.py`). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from perdure.agent.metrics.observation import Observation, to_document
from perdure.memory.contracts.results import Update
from perdure.memory.json_value import Document

CHECKPOINT, FAILURE = "checkpoint", "failure"
"""Kinds of rows that the metrics pass over: a version with its means on dev tasks, and why a run came to nothing."""
SAMPLED, SAMPLED_DEV = "sampled", "sampled_dev"
"""Measures: one answer at temperature 1 to each test task, and to each dev task, which only choose."""
CHOICE = "choice"
"""Of the panel: the probability of the right answer among the listed ones."""

TaskScores = dict[int, float]
"""Of one environment, by seed; a task whose environment failed is missing."""


class PanelRow(NamedTuple):
    """One score of one item of the capability panel."""

    skill: str
    item: str
    measure: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlace:
    """Where in a study something was measured."""

    arm: str
    order: str
    seed: int
    stage: int
    update: int | None = None
    """None at the end of the stage."""


def task_rows(place: RowPlace, measure: str, scores: Mapping[str, TaskScores]) -> Iterator[Document]:
    """A row for each task of each environment."""
    for name, found in scores.items():
        for seed, score in found.items():
            yield _row(place, name, str(seed), measure, score)


def panel_rows(place: RowPlace, scores: Iterable[PanelRow]) -> Iterator[Document]:
    """A row for each score of the panel."""
    for one in scores:
        yield _row(place, one.skill, one.item, one.measure, one.score)


def drift_rows(place: RowPlace, made: Update, target: str) -> Iterator[Document]:
    """KL to the base model that an update measured, in nats a token: on episodes of the target (`kl_new`) and of old ones (`kl_old`)."""
    for measure, value in (("kl_new", made.drift.kl_base_new), ("kl_old", made.drift.kl_base_old)):
        if value is not None:
            yield _row(place, target, f"update {made.update}", measure, value)


def means(scores: Mapping[str, TaskScores]) -> dict[str, float]:
    """The mean score of each environment in which some task was scored."""
    return {name: sum(found.values()) / len(found) for name, found in scores.items() if found}


def _row(place: RowPlace, subject: str, item: str, measure: str, score: float) -> Document:
    observation = Observation(
        arm=place.arm,
        order=place.order,
        seed=place.seed,
        stage=place.stage,
        update=place.update,
        subject=subject,
        item=item,
        measure=measure,
        score=score,
    )
    return to_document(observation)
