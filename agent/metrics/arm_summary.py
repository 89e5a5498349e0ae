"""What the arms of a study come to: every metric over seeds with its interval, and two arms against each other, seed by seed.

Runs that differ only in the order of their stages are averaged first, so that n counts seeds. Pure functions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from perdure.agent.metrics.measured_run import MeasuredRun
from perdure.agent.metrics.metric_table import METRIC, run_metrics
from perdure.agent.metrics.observation import SINGLE_ARM
from perdure.agent.metrics.run_readings import RunsBeside
from perdure.agent.metrics.seed_intervals import MeanEstimate, chance_of_more, estimate, one_sided_bound
from perdure.memory.json_value import Document

JOINT, SINGLE, STATELESS = "joint", SINGLE_ARM, "stateless"
REFERENCES = (JOINT, SINGLE, STATELESS)
"""Arms that others are measured against, if a study has arms of these names."""

SeedValues = Mapping[int, float]
"""By seed."""
RunValues = Mapping[tuple[int, str], float]
"""By seed and order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricOfArm:
    """One metric of one arm, over seeds."""

    arm: str
    metric: str
    estimate: MeanEstimate
    bound: float | None
    """One-sided, 95 %: the mean is not worse than this. None with one seed, or if neither direction is better."""
    by_seed: SeedValues
    """Means over orders."""
    by_run: RunValues

    def as_json(self) -> Document:
        return {**self.estimate.as_json(), "bound": self.bound, "by_seed": {str(seed): value for seed, value in self.by_seed.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmDifference:
    """first - second of one metric, over the runs that both arms have: paired by seed and order, then averaged over orders."""

    first: str
    second: str
    metric: str
    estimate: MeanEstimate
    p: float | None
    """One-sided t test that the first is not above the second."""
    runs: int
    """That were paired."""


def metrics_by_arm(runs: Sequence[MeasuredRun], beside: Sequence[MeasuredRun] = ()) -> dict[str, dict[str, MetricOfArm]]:
    """By arm and metric, without the metrics that no run of the arm has. Runs `beside` them are only what they are measured against."""
    references = [run for run in (*runs, *beside) if run.name.arm in REFERENCES]
    values: dict[str, dict[str, dict[tuple[int, str], float]]] = {}
    for run in runs:
        of_arm = values.setdefault(run.name.arm, {})
        for key, value in run_metrics(run, runs_beside(run, references)).items():
            if value is not None:
                of_arm.setdefault(key, {})[run.name.seed, run.name.order] = value
    return {arm: {key: _over_seeds(arm, key, by_run) for key, by_run in of_arm.items()} for arm, of_arm in values.items()}


def runs_beside(run: MeasuredRun, runs: Sequence[MeasuredRun]) -> RunsBeside:
    """The joint, single-task and stateless runs of the same seed; a stateless run also of the same order."""
    others = [other for other in runs if other.name.seed == run.name.seed and other.name.arm != run.name.arm]
    return RunsBeside(
        joint=[other for other in others if other.name.arm == JOINT],
        single=[other for other in others if other.name.arm == SINGLE],
        stateless=[other for other in others if other.name.arm == STATELESS and other.name.order == run.name.order],
    )


def compare_arms(first: MetricOfArm, second: MetricOfArm) -> ArmDifference | None:
    """The difference of two arms in one metric; None if they share no run.

    An order that one arm lacks of a seed, because its run failed, is left out of both: otherwise the difference of orders would be in it.
    """
    by_run = {key: first.by_run[key] - second.by_run[key] for key in first.by_run if key in second.by_run}
    if not by_run:
        return None
    differences = list(seed_means(by_run).values())
    return ArmDifference(
        first=first.arm,
        second=second.arm,
        metric=first.metric,
        estimate=estimate(differences),
        p=chance_of_more(differences),
        runs=len(by_run),
    )


def seed_means(by_run: RunValues) -> dict[int, float]:
    """The mean over the orders of each seed."""
    found: dict[int, list[float]] = defaultdict(list)
    for (seed, _), value in by_run.items():
        found[seed].append(value)
    return {seed: fmean(values) for seed, values in found.items()}


def _over_seeds(arm: str, key: str, by_run: RunValues) -> MetricOfArm:
    by_seed = seed_means(by_run)
    better, found = METRIC[key].better, list(by_seed.values())
    bound = None if better == "neither" else one_sided_bound(found, "lower" if better == "higher" else "upper")
    return MetricOfArm(arm=arm, metric=key, estimate=estimate(found), bound=bound, by_seed=by_seed, by_run=by_run)
