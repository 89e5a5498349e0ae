"""A run that notes what a metric reads of it, so that a report can say of how many items each number is.

Scores of a matrix are means, and to read one is to read all its items. Whether a score is there (`in`) is no reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from perdure.agent.metrics.measured_run import MeasuredRun, Place, Point, ScoreBook

Value = TypeVar("Value")
Key = TypeVar("Key")


@dataclass(slots=True, kw_only=True)
class Reads:
    """What was read so far."""

    items: set[tuple[str, str]] = field(default_factory=set)
    """Subject and item."""
    places: set[tuple[str, Place]] = field(default_factory=set)
    """The measure, stage and subject of single items that were looked at."""
    has_curves: bool = False
    """Whether checks within a stage were read."""


def noting(run: MeasuredRun) -> tuple[MeasuredRun, Reads]:
    """The same run, and what will have been read of it."""
    reads = Reads()
    return replace(run, books={measure: _noting(book, measure, reads) for measure, book in run.books.items()}), reads


def _noting(book: ScoreBook, measure: str, reads: Reads) -> ScoreBook:
    return replace(
        book,
        matrix=replace(book.matrix, scores=_Scores(book.matrix.scores, book, reads)),
        items=_Places(book.items, measure, reads),
        answers=_Places(book.answers, measure, reads),
        curves=_Curves(book.curves, reads),
    )


class _Noted(Mapping[Key, Value]):
    """Passes on what it has."""

    def __init__(self, has: Mapping[Key, Value], reads: Reads) -> None:
        self._has = has
        self._reads = reads

    def __getitem__(self, key: Key) -> Value:
        return self._has[key]

    def __contains__(self, key: object) -> bool:
        return key in self._has

    def __iter__(self) -> Iterator[Key]:
        return iter(self._has)

    def __len__(self) -> int:
        return len(self._has)


class _Scores(_Noted[Place, float]):
    def __init__(self, has: Mapping[Place, float], book: ScoreBook, reads: Reads) -> None:
        super().__init__(has, reads)
        self._book = book

    def __getitem__(self, key: Place) -> float:
        score = self._has[key]
        self._reads.items.update((key[1], item) for item in self._book.items.get(key, ()))
        return score


class _Places(_Noted[Place, Mapping[str, Value]]):
    def __init__(self, has: Mapping[Place, Mapping[str, Value]], measure: str, reads: Reads) -> None:
        super().__init__(has, reads)
        self._measure = measure

    def __getitem__(self, key: Place) -> Mapping[str, Value]:
        found = self._has[key]
        self._reads.places.add((self._measure, key))
        return _Items(found, key[1], self._reads)


class _Items(_Noted[str, Value]):
    def __init__(self, has: Mapping[str, Value], subject: str, reads: Reads) -> None:
        super().__init__(has, reads)
        self._subject = subject

    def __getitem__(self, key: str) -> Value:
        value = self._has[key]
        self._reads.items.add((self._subject, key))
        return value


class _Curves(_Noted[Place, Sequence[Point]]):
    def __getitem__(self, key: Place) -> Sequence[Point]:
        found = self._has[key]
        self._reads.has_curves = True
        return found
