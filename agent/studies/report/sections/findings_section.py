"""What a study finds: its claims with their verdicts, every metric of every arm, and the arms against one of them, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from perdure.agent.metrics.arm_summary import ArmDifference, MetricOfArm, compare_arms
from perdure.agent.metrics.metric import Metric
from perdure.agent.metrics.metric_table import METRICS
from perdure.agent.studies.report.html_parts import NOTHING, Html, details, heading, join, marked, paragraph, section, small, table, text
from perdure.agent.studies.report.report_data import ArmMetrics, ReportData
from perdure.agent.studies.report.report_numbers import differs, digits_of, estimate_html, number
from perdure.memory.json_value import Document

ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
FIRST = (
    "gain",
    "drop",
    "panel_drop",
    "acc",
    "bwt",
    "fwt",
    "forgetting_first",
    "retention",
    "intransigence_joint",
    "recall",
    "recall_chance",
    "recall_panel",
    "kl_new",
    "cross_entropy",
    "updates",
    "tokens",
)
"""Metrics that stand first; the others are folded."""
BOUNDED = ("bwt", "drop", "panel_drop", "forgetting_first", "forgetting_best", "retention")
"""Metrics of retention, with the one-sided bound of their mean."""
COLOURS = {"holds": "good", "not shown": "muted", "refused": "muted", "refuted": "bad"}


def claims_section(data: ReportData) -> Html:
    """The claims that the study tested, in their order. Empty if it tested none."""
    claims = tested_claims(data.study.summary)
    if not claims:
        return NOTHING
    columns = ["claim", "verdict", "difference", "interval", "n", "p", "why"]
    rows = [_claim(claim) for claim in claims]
    about = paragraph("Tested in this order, each at .05, and only while those before it hold; one with too few seeds is refused.")
    return section("claims", "Claims", about, table(columns, rows, numbers=("difference", "interval", "n", "p")))


def tested_claims(summary: Document) -> list[Document]:
    """The claims of a summary, if each has its words and its verdict; a study may call other things so."""
    claims = summary.get("claims")
    is_tested = isinstance(claims, list) and all(isinstance(claim, dict) and {"claim", "verdict"} <= claim.keys() for claim in claims)
    return list(claims) if isinstance(claims, list) and is_tested else []


def metrics_section(data: ReportData, metrics: Mapping[str, ArmMetrics], against: str | None) -> Html:
    """Empty if nothing was measured. `against`: the arm that others are compared with; by default the first of each stream."""
    parts = [_of_stream(data, stream, metrics[stream], against) for stream in data.streams]
    if not any(parts):
        return NOTHING
    about = paragraph(
        "Means over seeds, orders averaged first; below each its 95 % interval (Student's t, from ten seeds on the bootstrap) and n. "
        "↑: higher is better, ↓: lower is better. 'Not below' and 'not above' are one-sided bounds of 95 %. An arm is called better or "
        "worse than another if the whole interval of their difference is on one side of 0: by chance alone that is so of one in twenty, "
        "and only claims are tested in an order that was stated beforehand. The formulas are at the end."
    )
    return section("metrics", "Metrics", about, *parts)


def glossary(metrics: Mapping[str, ArmMetrics]) -> Html:
    """The formula and source of every metric that the page has."""
    shown = _measured(list(metrics.values()))
    rows = [[text(metric.name), text(metric.formula), text(metric.unit), text(metric.better), text(metric.source)] for metric in shown]
    about = paragraph("R[i][j] is the score of subject j after stage i of T; stage 0 is the base.")
    return section("formulas", "Formulas", about, table(["metric", "formula", "unit", "better", "source"], rows)) if rows else NOTHING


def _claim(claim: Document) -> list[Html]:
    low, high, p = claim.get("low"), claim.get("high"), claim.get("p")
    estimate, verdict = claim.get("estimate"), str(claim.get("verdict", ""))
    return [
        text(claim.get("claim")),
        marked(verdict, COLOURS.get(verdict, "muted")),
        text(None if estimate is None else number(estimate, signed=True, digits=3)),
        text(None if low is None or high is None else f"{number(low, signed=True, digits=3)} to {number(high, signed=True, digits=3)}"),
        text(claim.get("n")),
        text(None if p is None else number(p, digits=3)),
        text(claim.get("why") or ""),
    ]


def _of_stream(data: ReportData, stream: str, metrics: ArmMetrics, against: str | None) -> Html:
    shown = _measured([metrics])
    if not shown:
        return NOTHING
    reference = against if against is not None and against in metrics else next(iter(metrics))
    first = [metric for metric in shown if metric.key in FIRST]
    rest = [metric for metric in shown if metric.key not in FIRST]
    return join(
        heading(stream) if len(data.streams) > 1 else NOTHING,
        _arms(metrics, first),
        _differences(metrics, first, reference),
        details(f"{len(rest)} more metrics", join(_arms(metrics, rest), _differences(metrics, rest, reference))) if rest else NOTHING,
    )


def _arms(metrics: ArmMetrics, shown: Sequence[Metric]) -> Html:
    """Every arm by itself."""
    rows = [
        [text(metric.name + ARROWS[metric.better]), *(_of_arm(metrics[arm].get(metric.key), metric) for arm in metrics)] for metric in shown
    ]
    return table(["metric", *metrics], rows, numbers=list(metrics)) if rows else NOTHING


def _of_arm(found: MetricOfArm | None, metric: Metric) -> Html:
    if found is None:
        return text(None)
    shown = estimate_html(found.estimate, digits=digits_of(metric))
    if found.bound is None or metric.key not in BOUNDED:
        return shown
    side = "not below" if metric.better == "higher" else "not above"
    return join(shown, small(f"{side} {number(found.bound, digits=digits_of(metric))}"))


def _differences(metrics: ArmMetrics, shown: Sequence[Metric], reference: str) -> Html:
    """Every other arm against one, if a metric is in both."""
    others = [arm for arm in metrics if arm != reference]
    rows = []
    for metric in shown:
        found = [_compared(metrics[arm].get(metric.key), metrics[reference].get(metric.key)) for arm in others]
        if any(found):
            rows.append([text(metric.name + ARROWS[metric.better]), *(_difference(one, metric) for one in found)])
    return (
        table(["metric", *others], rows, numbers=others, caption=f"Each arm minus {reference}, on the runs (seed and order) that both have")
        if rows
        else NOTHING
    )


def _compared(found: MetricOfArm | None, reference: MetricOfArm | None) -> ArmDifference | None:
    return None if found is None or reference is None else compare_arms(found, reference)


def _difference(found: ArmDifference | None, metric: Metric) -> Html:
    if found is None:
        return text(None)
    shown = estimate_html(found.estimate, signed=True, digits=digits_of(metric))
    if found.runs != found.estimate.n:
        shown = join(shown, small(f"{found.runs} pairs of runs"))
    if not differs(found.estimate) or metric.better == "neither":
        return shown
    is_better = (found.estimate.value > 0) == (metric.better == "higher")
    return join(shown, marked("better" if is_better else "worse", "good" if is_better else "bad"))


def _measured(all_metrics: Sequence[ArmMetrics]) -> list[Metric]:
    return [metric for metric in METRICS if any(metric.key in of_arm for metrics in all_metrics for of_arm in metrics.values())]
