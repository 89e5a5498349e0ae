"""The one table that all metrics read: a row for each score of an episode or a panel item, and a row of facts for each stage of a run.

A *run* is one arm with one order of stages and one seed. Stage 0 is the base model; stage 1 is the first that learns. What a study keeps in
its file and what `perdure report` reads from a home are both these rows, as documents that name their kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from perdure.memory.errors import InputError
from perdure.memory.json_value import Document

OBSERVATION = "observation"
FACTS = "facts"
BASE = 0
"""The stage before any learning."""
BASE_ARM = "base"
"""The base may be observed once a seed, under this arm: a run without rows of stage 0 takes those."""

SINGLE_ARM = "single"
"""An arm of this name learns each stage from the base, and others are measured against it."""


class RunName(NamedTuple):
    """Which run a row belongs to."""

    arm: str
    """What is compared: a learner with its options."""
    order: str
    """Of the stages; '' if there is only one."""
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One score of one item under one measure."""

    arm: str
    order: str = ""
    seed: int
    stage: int
    """After which stage, or within which if `update` is given; 0 is the base."""
    update: int | None = None
    """Optimizer updates so far in the stage; None at its end."""
    subject: str
    """An environment or a skill of the panel."""
    item: str
    """The seed of a task, or the id of a panel item. The same item is the same question at every stage."""
    measure: str
    """`sampled`, `greedy`, `choice`, `strict`, `lenient`, `cued`, `cross_entropy`, `kl_new`, `kl_old`, `confidence`, ..."""
    score: float

    @property
    def run(self) -> RunName:
        return RunName(self.arm, self.order, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFacts:
    """What one stage of a run was for, and what it cost."""

    arm: str
    order: str = ""
    seed: int
    stage: int
    targets: tuple[str, ...]
    """The subjects that it learned."""
    updates: int = 0
    """Optimizer updates, of candidates that were refused too."""
    tokens: int = 0
    """Sampled or learned from: prompts and answers."""
    seconds: float = 0.0
    """Of learning, without what measured it."""
    verdict: str | None = None
    """Of the gate: promote, reject or inconclusive; None if there was no gate."""
    note: str | None = None
    """Why it was refused, why it failed, or 'not comparable' and why."""

    @property
    def run(self) -> RunName:
        return RunName(self.arm, self.order, self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultTable:
    """All rows of a study or a home."""

    observations: tuple[Observation, ...]
    facts: tuple[StageFacts, ...]


def to_document(row: Observation | StageFacts) -> Document:
    """A row as a JSON object, with its `kind`."""
    if isinstance(row, Observation):
        return {
            "kind": OBSERVATION,
            "arm": row.arm,
            "order": row.order,
            "seed": row.seed,
            "stage": row.stage,
            "update": row.update,
            "subject": row.subject,
            "item": row.item,
            "measure": row.measure,
            "score": row.score,
        }
    return {
        "kind": FACTS,
        "arm": row.arm,
        "order": row.order,
        "seed": row.seed,
        "stage": row.stage,
        "targets": list(row.targets),
        "updates": row.updates,
        "tokens": row.tokens,
        "seconds": row.seconds,
        "verdict": row.verdict,
        "note": row.note,
    }


def from_document(document: Document) -> Observation | StageFacts:
    """The row of a document. Raises `InputError` if its kind is unknown, a key is missing or unknown, or a value is of the wrong type."""
    values: dict[str, Any] = dict(document)
    kind = values.pop("kind", None)
    try:
        if kind == OBSERVATION:
            row = Observation(**values)
            _check(row, texts=(row.arm, row.order, row.subject, row.item, row.measure), numbers=(row.seed, row.stage, row.update or 0))
            if isinstance(row.score, bool) or not isinstance(row.score, int | float) or not math.isfinite(row.score):
                raise InputError(f"the score of {row.subject} {row.item} ({row.measure}) is {row.score!r}, not a finite number")
            return row
        if kind == FACTS:
            fact = StageFacts(**{**values, "targets": tuple(values.get("targets", ()))})
            _check(fact, texts=(fact.arm, fact.order, *fact.targets), numbers=(fact.seed, fact.stage, fact.updates, fact.tokens))
            return fact
    except TypeError as error:
        raise InputError(f"a row of kind {kind} is damaged: {error}") from error
    raise InputError(f"a row has the kind {kind!r}, expected {OBSERVATION} or {FACTS}")


def _check(row: Observation | StageFacts, texts: Iterable[object], numbers: Iterable[object]) -> None:
    for value in texts:
        if not isinstance(value, str):
            raise InputError(f"a row of {row.arm} has {value!r} where a text is expected")
    for value in numbers:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InputError(f"a row of {row.arm} has {value!r} where a whole number from 0 on is expected")


def read_table(documents: Iterable[Document]) -> ResultTable:
    """The rows among documents; documents of another kind are passed over, since a study may keep rows of its own."""
    rows = [from_document(document) for document in documents if document.get("kind") in (OBSERVATION, FACTS)]
    return ResultTable(
        observations=tuple(row for row in rows if isinstance(row, Observation)),
        facts=tuple(row for row in rows if isinstance(row, StageFacts)),
    )


def of_run(table: ResultTable, run: RunName) -> ResultTable:
    """The rows of one run."""
    return ResultTable(
        observations=tuple(row for row in table.observations if row.run == run),
        facts=tuple(row for row in table.facts if row.run == run),
    )


def runs(table: ResultTable) -> Sequence[RunName]:
    """All runs, in the order in which they first appear."""
    return tuple(dict.fromkeys([*(row.run for row in table.observations), *(row.run for row in table.facts)]))
