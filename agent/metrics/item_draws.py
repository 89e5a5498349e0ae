"""The items of one run drawn anew, many times: how often each item was drawn, and what means and flips come to. Pure.

D counts draws, N items of a subject, M those of them that were scored at one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from perdure.agent.metrics.formulas.flips import RIGHT, FlipCounts
from perdure.agent.metrics.measured_run import Place, ScoreBook

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAW_SEED = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemDraws:
    """How often each item of each subject was drawn."""

    number: Mapping[str, Mapping[str, int]]
    """By subject and item: its column."""
    times_DN: Mapping[str, NDArray[np.uint16]]
    """By subject."""

    def times_DM(self, subject: str, items: Iterable[str]) -> NDArray[np.float64]:
        """Of these items."""
        columns = [self.number[subject][item] for item in items]
        return self.times_DN[subject][:, columns].astype(float)


def draw_items(books: Sequence[ScoreBook], draws: int) -> ItemDraws:
    """Draw as many items of each subject as it has in these books, with replacement, each with all its scores."""
    import numpy as np

    rng = np.random.default_rng(DRAW_SEED)
    number: dict[str, dict[str, int]] = {}
    for book in books:
        for (_, subject), items in book.items.items():
            of_subject = number.setdefault(subject, {})
            for item in items:
                of_subject.setdefault(item, len(of_subject))
    times = {}
    for subject, items in number.items():
        n = len(items)
        times[subject] = np.stack([np.bincount(rng.integers(0, n, n), minlength=n).astype(np.uint16) for _ in range(draws)])
    return ItemDraws(number=number, times_DN=times)


def drawn_means(book: ScoreBook, draws: ItemDraws) -> dict[Place, list[float | None]]:
    """The score at each place in each draw; None in a draw without an item of it."""
    import numpy as np

    found = {}
    for place, items in book.items.items():
        times_DM = draws.times_DM(place[1], items)
        total_D = times_DM.sum(axis=1)
        mean_D = times_DM @ np.fromiter(items.values(), float) / np.maximum(total_D, 1)
        found[place] = [float(mean) if total else None for mean, total in zip(mean_D, total_D, strict=True)]
    return found


def drawn_flips(book: ScoreBook, starts: Mapping[str, int], draws: ItemDraws) -> list[FlipCounts]:
    """The flips over these subjects in each draw, each from its stage in `starts` to the end."""
    import numpy as np

    total_DK: NDArray[np.float64] | float = 0.0
    for subject, start in starts.items():
        before, after = book.items[start, subject], book.items[book.matrix.stages, subject]
        shared = [item for item in before if item in after]
        kind_M = np.array([2 * (before[item] > RIGHT) + (after[item] > RIGHT) for item in shared], dtype=int)
        total_DK = total_DK + draws.times_DM(subject, shared) @ np.eye(4)[kind_M]
    return [
        FlipCounts(never=int(never), gained=int(gained), lost=int(lost), kept=int(kept))
        for never, gained, lost, kept in np.atleast_2d(total_DK)
    ]


def drawn_book(book: ScoreBook, scores: Mapping[Place, float], places: Iterable[Place], draws: ItemDraws, draw: int) -> ScoreBook:
    """A book of one draw: these scores, and at these places the items as often as they were drawn, each time under another name."""
    items: dict[Place, dict[str, float]] = {}
    answers: dict[Place, dict[str, Sequence[float]]] = {}
    for place in places:
        of_subject, times_N = draws.number[place[1]], draws.times_DN[place[1]][draw]
        names = [(item, f"{item} {time}") for item in book.items[place] for time in range(times_N[of_subject[item]])]
        items[place] = {name: book.items[place][item] for item, name in names}
        answers[place] = {name: book.answers[place][item] for item, name in names}
    return replace(book, matrix=replace(book.matrix, scores=scores), items=items, answers=answers)
