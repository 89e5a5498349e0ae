"""The metrics below the means and beside them: items, falls on the way, the stateless self, divergence, calibration, costs."""

from __future__ import annotations

from collections.abc import Callable

from perdure.agent.metrics import run_readings as read
from perdure.agent.metrics.formulas import calibration, costs, flips, stability
from perdure.agent.metrics.measured_run import MAIN
from perdure.agent.metrics.metric import Better, FlipReading, Metric

HARMON = "Harmon et al. 2025 (2510.17776)"
LANGE = "De Lange et al. 2023"
DRAWDOWN = "Magdon-Ismail & Atiya 2004"
CL_BENCH = "CL-Bench 2026 (2606.05661)"
RAZOR = "after Shenfeld et al. 2025 (2509.04259)"


def _flips(key: str, name: str, formula: str, better: Better, measure: str, value: Callable[[flips.FlipCounts], float | None]) -> Metric:
    return Metric(
        key=key,
        name=name,
        formula=formula,
        source=HARMON,
        unit="share",
        better=better,
        of_run=lambda run, _: read.read_flips(run, value, measure),
        flips=FlipReading(measure=measure, value=value),
    )


ITEM_METRICS: tuple[Metric, ...] = (
    _flips("recall", "recall", "right before and after / right before, over tasks of environments", "higher", MAIN, flips.recall),
    Metric(
        key="recall_chance",
        name="recall if nothing had changed",
        formula="expected of tasks that are equally hard and right with p, the share on both sides: p (sampled answers), 1 (greedy)",
        source="binomial null",
        unit="share",
        better="neither",
        of_run=lambda run, _: read.read_recall_by_chance(run),
    ),
    _flips("recall_free", "recall, free", "the same of `strict`: the asked form, nothing in sight", "higher", "strict", flips.recall),
    _flips("recall_cued", "recall, cued", "the same of `cued`: one worked example in sight", "higher", "cued", flips.recall),
    _flips(
        "recall_panel",
        "recall, panel",
        "the same of `choice`: right is a probability above one half",
        "higher",
        "choice",
        flips.recall,
    ),
    _flips("flips_lost", "flips, right to wrong", "tasks right before and wrong after / tasks", "lower", MAIN, flips.lost_share),
    _flips("flips_gained", "flips, wrong to right", "tasks wrong before and right after / tasks", "higher", MAIN, flips.gained_share),
    Metric(
        key="flips_chance",
        name="flips either way if nothing had changed",
        formula="expected as above: p (1 - p) of sampled answers, 0 of greedy ones",
        source="binomial null",
        unit="share",
        better="neither",
        of_run=lambda run, _: read.read_flips_by_chance(run),
    ),
    Metric(
        key="min_acc",
        name="minimum accuracy (min-ACC)",
        formula="mean over j learned before T of the lowest score at any check since",
        source=LANGE,
        unit="score",
        better="higher",
        of_run=lambda run, _: stability.minimum_accuracy(run.main),
    ),
    Metric(
        key="wc_acc",
        name="worst-case accuracy (WC-ACC)",
        formula="(1/T) R[T][T] + (1 - 1/T) min-ACC",
        source=LANGE,
        unit="score",
        better="higher",
        of_run=lambda run, _: stability.worst_case_accuracy(run.main),
    ),
    Metric(
        key="stability_gap",
        name="stability gap",
        formula="mean over j learned before T of R[j][j] - the lowest score since, at least 0",
        source=LANGE,
        unit="score",
        better="lower",
        of_run=lambda run, _: stability.stability_gap(run.main),
    ),
    Metric(
        key="drawdown",
        name="drawdown",
        formula="mean over environments of the deepest fall from a peak, at any check",
        source=DRAWDOWN,
        unit="score",
        better="lower",
        of_run=lambda run, _: stability.mean_drawdown(run.main),
    ),
    Metric(
        key="worst_drawdown",
        name="drawdown, worst environment",
        formula="the largest of them",
        source=DRAWDOWN,
        unit="score",
        better="lower",
        of_run=lambda run, _: stability.worst_drawdown(run.main),
    ),
    Metric(
        key="stateless_gain",
        name="gain against the stateless self",
        formula="mean over the tasks of the stream of score - score without experience",
        source=CL_BENCH,
        unit="score",
        better="higher",
        of_run=read.read_stateless_gain,
    ),
    Metric(
        key="normalised_gain",
        name="the same, as a share of the room",
        formula="(mean score - mean stateless score) / (1 - mean stateless score)",
        source=CL_BENCH,
        unit="share",
        better="higher",
        of_run=read.read_normalised_gain,
    ),
    Metric(
        key="kl_new",
        name="KL from the base, new prompts",
        formula="mean KL of the policy from the base, on its own answers to prompts of the targets",
        source=RAZOR,
        unit="nats a token",
        better="lower",
        of_run=lambda run, _: costs.last_divergence(run, "kl_new"),
    ),
    Metric(
        key="kl_old",
        name="KL from the base, old prompts",
        formula="the same on prompts of old environments",
        source=RAZOR,
        unit="nats a token",
        better="lower",
        of_run=lambda run, _: costs.last_divergence(run, "kl_old"),
    ),
    Metric(
        key="cross_entropy",
        name="rise of cross-entropy",
        formula="mean over pinned texts of the cross-entropy at the end - that of the base",
        source="the panel's neutral text",
        unit="nats a token",
        better="lower",
        of_run=lambda run, _: costs.change_of_measure(run, "cross_entropy"),
    ),
    Metric(
        key="ece",
        name="calibration error (ECE, 10 bins)",
        formula="sum over bins of (n_b/n) times the distance of mean right and mean confidence",
        source="Guo et al. 2017",
        unit="score",
        better="lower",
        of_run=lambda run, _: calibration.expected_calibration_error(*read.confidences(run)),
    ),
    Metric(
        key="brier",
        name="Brier score",
        formula="mean of (confidence - right)^2",
        source="Brier 1950",
        unit="score",
        better="lower",
        of_run=lambda run, _: calibration.brier_score(*read.confidences(run)),
    ),
    Metric(
        key="coverage",
        name="coverage (pass@4)",
        formula="mean over items of 1 - C(n-c, 4) / C(n, 4), c of n answers right",
        source="Chen et al. 2021 (HumanEval)",
        unit="share",
        better="higher",
        of_run=lambda run, _: read.read_coverage(run),
    ),
    Metric(
        key="updates",
        name="updates",
        formula="optimizer updates over all stages, of refused candidates too",
        source="counted",
        unit="updates",
        better="lower",
        of_run=lambda run, _: costs.total_updates(run.facts),
    ),
    Metric(
        key="tokens",
        name="tokens",
        formula="tokens sampled or learned from",
        source="counted",
        unit="tokens",
        better="lower",
        of_run=lambda run, _: costs.total_tokens(run.facts),
    ),
    Metric(
        key="seconds",
        name="seconds",
        formula="of learning",
        source="measured",
        unit="seconds",
        better="lower",
        of_run=lambda run, _: costs.total_seconds(run.facts),
    ),
)
