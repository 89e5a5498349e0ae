"""What the gate said of every stage of every run, in order, with its reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from perdure.agent.metrics.measured_run import MeasuredRun
from perdure.agent.metrics.observation import StageFacts
from perdure.agent.show.short_names import short_names
from perdure.agent.studies.report.html_parts import NOTHING, Html, details, heading, join, marked, section, table, text
from perdure.agent.studies.report.report_data import ReportData, over_seeds
from perdure.agent.studies.report.report_numbers import estimate_html

SHOWN = {
    "promote": ("✓", "promoted", "good"),
    "reject": ("✗", "refused", "bad"),
    "inconclusive": ("?", "not shown", "muted"),
}
"""The sign of a verdict, its word and its colour."""
FOLDED_FROM = 25
"""Runs in the timeline."""


def gate_section(data: ReportData) -> Html:
    """Empty if nothing was gated."""
    gated = [run for run in data.runs if any(fact.verdict is not None for fact in run.facts)]
    if not gated:
        return NOTHING
    names = short_names(list(dict.fromkeys(target for run in gated for fact in run.facts for target in fact.targets)))
    last = max(fact.stage for run in gated for fact in run.facts)
    columns = ["run", *(f"stage {stage}" for stage in range(1, last + 1))]
    rows = [[text(_name(run)), *(_verdict(run, stage, names) for stage in range(1, last + 1))] for run in gated]
    signs = ", ".join(f"{sign} {word}" for sign, word, _ in SHOWN.values())
    timeline = table(columns, rows, caption=f"What each stage was to learn, and the verdict: {signs}, – no gate")
    shown = join(heading("Timeline"), timeline) if len(rows) < FOLDED_FROM else details(f"Timeline of {len(rows)} runs", timeline)
    return section("gate", "The gate, stage by stage", _counts(data, gated), shown, _reasons(gated))


def _counts(data: ReportData, gated: Sequence[MeasuredRun]) -> Html:
    columns = ["arm", "stages with a verdict", "promoted", "refused", "not shown", "promoted share"]
    rows = []
    for arm in data.arms:
        of_arm = [(run.name.seed, [fact.verdict for fact in run.facts if fact.verdict]) for run in gated if run.name.arm == arm]
        if of_arm:
            counts = Counter(verdict for _, verdicts in of_arm for verdict in verdicts)
            share = over_seeds((seed, verdicts.count("promote") / len(verdicts)) for seed, verdicts in of_arm)
            numbers = (sum(counts.values()), counts["promote"], counts["reject"], counts["inconclusive"])
            rows.append([text(arm), *map(text, numbers), estimate_html(share)])
    return table(columns, rows, numbers=columns[1:])


def _verdict(run: MeasuredRun, stage: int, names: dict[str, str]) -> Html:
    fact = next((fact for fact in run.facts if fact.stage == stage), None)
    if fact is None:
        return NOTHING
    learned = ", ".join(names[target] for target in fact.targets)
    sign, _, kind = SHOWN.get(fact.verdict or "", ("–", "", "muted"))
    return marked(f"{sign} {learned}", kind)


def _reasons(gated: Sequence[MeasuredRun]) -> Html:
    told: list[tuple[MeasuredRun, StageFacts]] = [(run, fact) for run in gated for fact in run.facts if fact.verdict and fact.note]
    rows = [[text(_name(run)), text(fact.stage), text(fact.verdict), text(fact.note)] for run, fact in told]
    return details(f"Reasons of {len(rows)} verdicts", table(["run", "stage", "verdict", "reason"], rows)) if rows else NOTHING


def _name(run: MeasuredRun) -> str:
    return ", ".join(part for part in (run.name.arm, run.name.order, f"seed {run.name.seed}") if part)
