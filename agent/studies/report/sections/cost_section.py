"""What each arm cost, as bars: updates, tokens, seconds."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.agent.metrics.metric_table import METRIC
from perdure.agent.studies.report.html_parts import NOTHING, Html, bar, bar_table, heading, join, paragraph, section, text
from perdure.agent.studies.report.report_data import ArmMetrics, ReportData
from perdure.agent.studies.report.report_numbers import estimate_html

COSTS = ("updates", "tokens", "seconds")


def cost_section(data: ReportData, metrics: Mapping[str, ArmMetrics]) -> Html:
    """Empty if no stage says what it cost."""
    parts = [_of_stream(data, stream, metrics[stream]) for stream in data.streams]
    if not any(parts):
        return NOTHING
    about = paragraph("Means over seeds of all stages together, with 95 % intervals. Seconds are of learning on the machine of the study.")
    return section("cost", "Costs", about, *parts)


def _of_stream(data: ReportData, stream: str, metrics: ArmMetrics) -> Html:
    tables = []
    for key in COSTS:
        found = {arm: metrics[arm][key].estimate for arm in data.arms_of(stream) if key in metrics[arm]}
        widest = max((one.value if one.high is None else one.high for one in found.values()), default=0.0)
        if widest <= 0:
            continue
        rows = []
        for arm, one in found.items():
            low, high = (None, None) if one.low is None or one.high is None else (one.low / widest, one.high / widest)
            rows.append([text(arm), estimate_html(one, digits=0), bar(one.value / widest, "s0", low, high)])
        says = f"{METRIC[key].name}: {METRIC[key].formula}"
        tables.append(bar_table(["arm", METRIC[key].name, ""], rows, numbers=[METRIC[key].name], caption=says))
    if not tables:
        return NOTHING
    return join(heading(stream) if len(data.streams) > 1 else NOTHING, *tables)
