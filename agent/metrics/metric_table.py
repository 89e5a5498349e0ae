"""All metrics in one list, and what a run comes to under each. docs/metrics.md has the list as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perdure.agent.metrics.item_metrics import ITEM_METRICS
from perdure.agent.metrics.measured_run import MeasuredRun
from perdure.agent.metrics.metric import Metric
from perdure.agent.metrics.run_readings import RunsBeside
from perdure.agent.metrics.sequence_metrics import SEQUENCE_METRICS

METRICS: tuple[Metric, ...] = (*SEQUENCE_METRICS, *ITEM_METRICS)
METRIC: Mapping[str, Metric] = {metric.key: metric for metric in METRICS}


def run_metrics(run: MeasuredRun, beside: RunsBeside | None = None, metrics: Sequence[Metric] = METRICS) -> dict[str, float | None]:
    """Every metric of one run, by key; None if the run lacks what it needs."""
    others = beside or RunsBeside()
    return {metric.key: metric.of_run(run, others) for metric in metrics}
