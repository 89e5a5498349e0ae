"""The best that a life ever had against what it has at its end, so that luck is not taken for a loss. Pure.

The best of ten noisy scores is above the last one in half of all lives in which nothing was lost. So the best version is chosen on one half
of the probe tasks and compared on the other half, with the same tasks on both sides; and a fall counts only if the whole interval lies
beyond five points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, variance

from perdure.agent.metrics.seed_intervals import student_quantile
from perdure.memory.json_value import Document

TaskScores = Sequence[float | None]
"""Of one version in one environment, task by task; None if the episode failed. All versions have the same tasks in the same order."""

FALL = 0.05
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean difference with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    def as_json(self) -> Document:
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True, slots=True, kw_only=True)
class BestEver:
    """The best version of one environment, and how far the present one is below it."""

    best: str
    lost: Difference
    """Best - present, on tasks that did not choose the best."""

    @property
    def fell(self) -> bool:
        """Whether more than five points are shown to be lost."""
        return self.lost.low > FALL


def best_ever(scores: Mapping[str, TaskScores], served: Sequence[str]) -> BestEver:
    """Of the versions that served, the last of which is the present one, in one environment.

    The tasks with even numbers choose the best, those with odd numbers compare. Raises `ValueError` without scores to choose by.
    """
    known = [version for version in served if version in scores]
    if not known:
        raise ValueError(f"no scores of {', '.join(served)}")
    means = {version: _mean(scores[version][0::2]) for version in known}
    best = max(reversed(known), key=lambda version: means[version])  # of equals the newest
    return BestEver(best=best, lost=paired_difference(scores[best][1::2], scores[known[-1]][1::2]))


def paired_difference(first: TaskScores, second: TaskScores) -> Difference:
    """Mean of first - second over the tasks that both have a score of, with Student's interval for paired samples."""
    differences = _differences(first, second)
    return _with_interval(fmean(differences) if differences else 0.0, _variance_of_mean(differences), len(differences))


def mean_difference(first: Mapping[str, TaskScores], second: Mapping[str, TaskScores]) -> Difference:
    """Mean over environments of the paired differences; tasks of different environments are independent."""
    by_environment = [_differences(first[name], second[name]) for name in first if name in second]
    by_environment = [differences for differences in by_environment if differences]
    if not by_environment:
        raise ValueError("no environment has scores on both sides")
    k = len(by_environment)
    spread = sum(map(_variance_of_mean, by_environment)) / k**2
    return _with_interval(fmean(map(fmean, by_environment)), spread, sum(map(len, by_environment)))


def _differences(first: TaskScores, second: TaskScores) -> list[float]:
    return [a - b for a, b in zip(first, second, strict=True) if a is not None and b is not None]


def _variance_of_mean(differences: Sequence[float]) -> float:
    return variance(differences) / len(differences) if len(differences) > 1 else 1.0


def _with_interval(mean: float, spread: float, n: int) -> Difference:
    width = student_quantile((1 + LEVEL) / 2, max(1, n - 1)) * sqrt(spread)
    return Difference(mean=mean, low=mean - width, high=mean + width, n=n)


def _mean(scores: TaskScores) -> float:
    known = [score for score in scores if score is not None]
    return fmean(known) if known else 0.0
