"""The last screen of the demonstration: bars of every skill with three versions, and what happened to them."""

from __future__ import annotations

from textwrap import wrap

from perdure.agent.control_groups import usable_cores
from perdure.agent.demo.demo_steps import DemoFacts
from perdure.agent.show.panel_bars import FORGOTTEN, drawn
from perdure.agent.show.short_names import short_name
from perdure.agent.show.terminal import visible
from perdure.memory.contracts.panel_results import SkillScores
from perdure.memory.contracts.results import GateResult, LearnResult

BAR = 10
PAIRS_SHOWN = 3
WORST_ROLLBACK_S = 1.0
"""Beyond the start of a command."""
REPEATED = 1
"""The update that was being kept when its process died."""
WIDTH = 118


def demo_lines(facts: DemoFacts, home: str) -> list[str]:
    """The whole screen."""
    careless, default = facts.careless, facts.default
    minutes, seconds = divmod(round(facts.seconds), 60)
    heads = ("skill", "base", f"{careless.version}: careless", f"{default.version}: default")
    rows = [*_environments(facts), *_panel(facts)]
    width = max(len(row[0]) for row in (*rows, heads))
    return [
        f"Perdure demo: {visible(facts.model)}, {usable_cores()} cores, {minutes} min {seconds:02d} s",
        "",
        f"{heads[0]:<{width}}  {heads[1]:<16}{heads[2]:<26}{heads[3]}",
        *(f"{row[0]:<{width}}  {row[1]:<16}{row[2]:<26}{row[3]}".rstrip() for row in rows),
        "",
        *_about(f"{careless.version}, careless", careless, "sft at a large rate, without replay"),
        *_about(f"{default.version}, default", default, "grpo with replay"),
        *wrap(f"kill -9: {_crash(facts)}", WIDTH, subsequent_indent="  "),
        f"rollback: {_rollback(facts)}",
        f"store check: {'; '.join(facts.breaches) or 'nothing wrong'}",
        f"more: perdure --home {home} status (or: report, panel {careless.version}, version show {careless.version})",
    ]


def _environments(facts: DemoFacts) -> list[tuple[str, ...]]:
    """A row for each environment: scores on held-out tasks."""
    rows = []
    for name, scores in facts.scores.items():
        cells = [_score(scores.get(version), _fell(result, name)) for version, result in _versions(facts)]
        rows.append((f"{short_name(name)}{' (learned)' if name == facts.target else ''}", *cells))
    return rows


def _versions(facts: DemoFacts) -> list[tuple[str, LearnResult | None]]:
    return [("v0", None), (facts.careless.version, facts.careless), (facts.default.version, facts.default)]


def _fell(result: LearnResult | None, environment: str) -> bool:
    """Whether the gate of a version has shown that it lost this environment."""
    return result is not None and result.gate is not None and environment in result.gate.evidence.regressed


def _panel(facts: DemoFacts) -> list[tuple[str, ...]]:
    """A row for each skill of the capability panel."""
    found = [facts.panels.get(result.version) for result in (facts.careless, facts.default)]
    names = dict.fromkeys(name for panel in found if panel is not None for name in panel.skills)
    rows = []
    for name in names:
        skills = [None if panel is None else panel.skills.get(name) for panel in found]
        base = next(skill for skill in skills if skill is not None)
        rows.append((f"panel: {visible(name)}", _skill(base, base.base), *(_of_version(skill) for skill in skills)))
    return rows


def _of_version(skill: SkillScores | None) -> str:
    return "-" if skill is None else _skill(skill, skill.version, forgotten="base" in skill.lost_against)


def _skill(skill: SkillScores, score: float, *, forgotten: bool = False) -> str:
    if skill.measure == "choice":
        return _score(score, forgotten)
    return f"{score:.2f} nats{f' {FORGOTTEN}' if forgotten else ''}"


def _score(score: float | None, forgotten: bool) -> str:
    if score is None:
        return "-"
    number = "1.0" if score >= 0.995 else f"{score:.2f}".removeprefix("0")
    return f"{number:<3} {drawn(score, BAR)}{f' {FORGOTTEN}' if forgotten else ''}"


def _about(who: str, result: LearnResult, how: str) -> list[str]:
    """What an update was and what its gate said, with the pairs that said most."""
    verdict = {"promote": "promoted", "reject": "refused"}.get(result.verdict or "", "not promoted")
    said = wrap(f"{who} ({how}): {verdict}: {visible(result.reason)}", WIDTH, subsequent_indent="  ")
    return [*said, *(f"  {line}" for line in _pairs(result.gate))]


def _pairs(gate: GateResult | None) -> list[str]:
    """The environments with the largest differences, as the gate saw them."""
    if gate is None:
        return []
    legs = {**gate.evidence.environments, **gate.evidence.trained}
    seen = [(name, leg) for name, leg in legs.items() if leg.n and leg.candidate_score is not None and leg.reference_score is not None]
    seen.sort(key=lambda each: -abs((each[1].candidate_score or 0.0) - (each[1].reference_score or 0.0)))
    return [
        f"{short_name(name)}: {leg.candidate_score:.2f} against {leg.reference_score:.2f} over {leg.n} pairs of the same task"
        for name, leg in seen[:PAIRS_SHOWN]
    ]


def _crash(facts: DemoFacts) -> str:
    crash = facts.crash
    if crash is None:
        return "the job was over before it could be killed"
    return (
        f"the process of {facts.default.version} died after update {crash.after_update} and went on from there: "
        f"{crash.lost} of {crash.turns:,} turns lost, {crash.repeated} of {crash.after_update} updates made again"
    )


def _rollback(facts: DemoFacts) -> str:
    if facts.default.verdict != "promote":
        return f"not tried, since {facts.default.version} does not serve"
    start = f"{facts.start_s:.2f} s is what a command takes that only reads"
    return f"v0 served again after {facts.rollback_s:.2f} s ({start}), and {facts.default.version} serves now"


def failures(facts: DemoFacts) -> list[str]:
    """What did not come out as promised, a line each."""
    crash = facts.crash
    slow_rollback = facts.rollback_s - facts.start_s > WORST_ROLLBACK_S
    found = {
        f"{facts.careless.version} was not refused": facts.careless.verdict == "promote",
        f"{facts.default.version} was not promoted": facts.default.verdict != "promote",
        "nothing was killed": crash is None,
        "turns were lost": crash is not None and crash.lost > 0,
        f"more than {REPEATED} update was made again": crash is not None and crash.repeated > REPEATED,
        f"the rollback took {facts.rollback_s:.2f} s, and a command that only reads {facts.start_s:.2f} s": slow_rollback,
        "the store has errors": bool(facts.breaches),
    }
    return [line for line, happened in found.items() if happened]
