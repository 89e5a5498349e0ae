"""False alarms and delays of the detector, simulated with the detector itself.

A task has eight members, whose scores are drawn as `KINDS` says; only their mean is shown to the detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import sqrt
from random import Random
from statistics import median, quantiles

from perdure.agent.watching.e_detector import RUN_LENGTH, Detector
from perdure.agent.watching.finding import expected_range

MEMBERS = 8
ANSWERS = 4
"""To each seed of a gate."""

ScoreOfTask = Callable[[float, Random], float]
"""The mean score of a task, whose expectation is given."""


def independent(p: float, rng: Random) -> float:
    """Members win or lose independently of each other."""
    return sum(rng.random() < p for _ in range(MEMBERS)) / MEMBERS


def correlated(p: float, rng: Random) -> float:
    """Tasks are easy or hard, for all their members."""
    ease = _ease(p, rng)
    return sum(rng.random() < ease for _ in range(MEMBERS)) / MEMBERS


def equal(p: float, rng: Random) -> float:
    """All members win, or all lose."""
    return float(rng.random() < p)


def graded(p: float, rng: Random) -> float:
    """Scores anywhere between 0 and 1."""
    return sum(rng.betavariate(3 * p, 3 * (1 - p)) for _ in range(MEMBERS)) / MEMBERS


KINDS: dict[str, ScoreOfTask] = {"independent": independent, "correlated": correlated, "equal": equal, "graded": graded}


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """Alarms of a detector that begins anew after each, while the mean is just what is expected."""

    kind: str
    mean: float
    tasks: int
    alarms: int

    @property
    def ok(self) -> bool:
        """Whether they are as rare as stated, within three standard errors."""
        stated = self.tasks / RUN_LENGTH
        return self.alarms <= stated + 3 * sqrt(stated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """Tasks until a fall of live play is noticed."""

    kind: str
    fall: float
    """From the true score, which the gate saw in `pairs` pairs."""
    pairs: int
    noticed: float
    """Share of the runs."""
    median: float
    nine_in_ten: float


def false_alarms(tasks: int, seed: int = 0, means: tuple[float, ...] = (0.2, 0.5, 0.9)) -> Iterator[FalseAlarms]:
    """A row for each kind of score and each mean."""
    for kind, score in KINDS.items():
        for mean in means:
            rng = Random(f"{seed} {kind} {mean}")
            found = alarms(Detector(expected=mean), partial(score, mean, rng), tasks)
            yield FalseAlarms(kind=kind, mean=mean, tasks=tasks, alarms=found)


def alarms(fresh: Detector, score: Callable[[], float], tasks: int) -> int:
    """How many there are if the detector begins anew after each."""
    found, now = 0, fresh
    for _ in range(tasks):
        now = now.after(score())
        if now.alarmed:
            found, now = found + 1, fresh
    return found


def delays(kind: str, score: float, fall: float, pairs: int, runs: int, most: int = 1000, seed: int = 0) -> Delays:
    """After each simulated gate, live play falls at once. A delay of `most` means that nothing was noticed."""
    rng = Random(f"{seed} {kind} {score} {fall} {pairs}")
    found = []
    for _ in range(runs):
        low, _ = expected_range([_gated(score, rng) for _ in range(pairs)])
        found.append(delay(Detector(expected=low), partial(KINDS[kind], max(score - fall, 1e-9), rng), most))
    noticed = sum(n < most for n in found) / runs
    return Delays(kind=kind, fall=fall, pairs=pairs, noticed=noticed, median=median(found), nine_in_ten=quantiles(found, n=10)[-1])


def delay(detector: Detector, score: Callable[[], float], most: int) -> int:
    """The number of the task at which it gives its alarm; `most` if that is later."""
    for n in range(1, most):
        detector = detector.after(score())
        if detector.alarmed:
            return n
    return most


def _ease(p: float, rng: Random) -> float:
    return rng.betavariate(2 * p, 2 * (1 - p))


def _gated(p: float, rng: Random) -> float:
    """The score of a seed in a gate: the mean of its answers."""
    ease = _ease(p, rng)
    return sum(rng.random() < ease for _ in range(ANSWERS)) / ANSWERS
