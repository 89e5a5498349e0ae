"""What happened item by item: what was right before and is wrong after, and the other way round. Means hide this. Pure functions.

An item is right if its score is above one half: for one answer that it is right, for several that most are, for `choice` that the right
answer is more likely than all others together. With sampled answers a version disagrees with itself too, and `kept_by_chance` says how
much. With greedy answers and with `choice` its recall is 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from perdure.agent.metrics.measured_run import ScoreBook
from perdure.agent.metrics.observation import BASE

RIGHT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipCounts:
    """Items scored on both sides."""

    kept: int = 0
    """Right before and after."""
    lost: int = 0
    """Right before, wrong after: forgetting of the item."""
    gained: int = 0
    """Wrong before, right after: backward transfer to the item."""
    never: int = 0

    @property
    def n(self) -> int:
        return self.kept + self.lost + self.gained + self.never

    def __add__(self, other: FlipCounts) -> FlipCounts:
        return FlipCounts(
            kept=self.kept + other.kept,
            lost=self.lost + other.lost,
            gained=self.gained + other.gained,
            never=self.never + other.never,
        )


def count_flips(before: Mapping[str, float], after: Mapping[str, float]) -> FlipCounts:
    """1 -> 0 and 0 -> 1 transitions of the items that both sides have (Harmon et al. 2025, 2510.17776)."""
    found = Counter((before[item] > RIGHT, after[item] > RIGHT) for item in before.keys() & after.keys())
    return FlipCounts(kept=found[True, True], lost=found[True, False], gained=found[False, True], never=found[False, False])


def flips_since(book: ScoreBook, starts: Mapping[str, int]) -> dict[str, FlipCounts]:
    """From a stage to the end, by subject."""
    last = book.matrix.stages
    return {subject: count_flips(book.items[start, subject], book.items[last, subject]) for subject, start in starts.items()}


def flip_starts(book: ScoreBook) -> dict[str, int]:
    """Since which stage the flips of each subject count, of those that have items there and at the end: the base, or for a target the stage
    that learned it."""
    last, learned = book.matrix.stages, book.matrix.learned
    starts = {subject: learned.get(subject, BASE) for subject in book.matrix.subjects()}
    return {subject: at for subject, at in starts.items() if at < last and (at, subject) in book.items and (last, subject) in book.items}


def recall(counts: FlipCounts) -> float | None:
    """kept / (kept + lost): of what was right before, the share that is right after. None if nothing was."""
    right_before = counts.kept + counts.lost
    return counts.kept / right_before if right_before else None


def kept_by_chance(counts: FlipCounts, *, is_sampled: bool) -> float:
    """How many items would be right before and after if nothing had changed, p being the share of right answers on both sides together.

    n p if the same version always gives the same answer. If its answers are sampled, n p^2 with items that are all equally hard; items
    that differ are kept more often, so that this is the least.
    """
    p = (2 * counts.kept + counts.lost + counts.gained) / (2 * counts.n) if counts.n else 0.0
    return counts.n * (p * p if is_sampled else p)


def lost_share(counts: FlipCounts, choices: float | None = None) -> float | None:
    """lost / n; with the number of `choices` k of an item, without what guessing explains: max(0, lost/n - (1 - a) (1 - b) / (k - 1)).

    a and b are the shares that are right before and after; what is not known is guessed evenly (Harmon et al. 2025, 2510.17776, and its
    code).
    """
    return _share(counts, counts.lost, choices)


def gained_share(counts: FlipCounts, choices: float | None = None) -> float | None:
    """gained / n, with the same correction for guessing, which is symmetric (Harmon et al. 2025, 2510.17776)."""
    return _share(counts, counts.gained, choices)


def _share(counts: FlipCounts, flipped: int, choices: float | None) -> float | None:
    if not counts.n:
        return None
    if choices is None:
        return flipped / counts.n
    if choices <= 1:
        raise ValueError(f"an item with {choices:g} choices cannot be guessed wrong")
    wrong_before, wrong_after = (counts.gained + counts.never) / counts.n, (counts.lost + counts.never) / counts.n
    return max(0.0, flipped / counts.n - wrong_before * wrong_after / (choices - 1))
