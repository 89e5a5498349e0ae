"""Rules before and after a gate: which versions play dev seeds, and what a verdict says. Pure functions of stored evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from perdure.learners.panel.panel_limits import refusal_of
from perdure.memory.contracts.results import Evidence, GateResult


def need_dev_scores(anchors: Mapping[str, str], trained: Collection[str], serving: str) -> tuple[dict[str, str], dict[str, str]]:
    """The versions that play dev seeds before a gate, by environment: every anchor, and the serving version if it is another one.

    An anchor's score decides whether its environment votes and by which margin, the serving version's whether a trained environment needs
    a gain.
    """
    return dict(anchors), {name: serving for name in trained if anchors.get(name) != serving}


def improved(evidence: Evidence) -> list[str]:
    """The trained environments whose own gain was shown."""
    return [name for name, leg in evidence.trained.items() if leg.state == "passed"]


def gain_asked(result: GateResult) -> bool:
    """Whether a trained environment had to improve. It is not asked of those at their ceiling, and never without targets."""
    return result.evidence.gain.state != "not asked"


def gain_shown(result: GateResult) -> bool:
    """Whether a trained environment had to improve, and did."""
    return result.evidence.gain.state == "passed"


def lost_on_panel(result: GateResult) -> bool:
    """Whether the capability panel refused the candidate, before any pair was played."""
    return result.panel is not None and refusal_of(result.panel) is not None


def all_held(result: GateResult) -> bool:
    """Whether everything that had to hold was shown to hold. Vacuous environments have no say."""
    pooled = result.evidence.pooled
    return not fell(result) and not not_shown_to_hold(result) and (pooled is None or pooled.state == "passed")


def not_shown_to_hold(result: GateResult) -> tuple[str, ...]:
    """The environments that neither were shown to hold nor clearly fell; empty if only the pool was not shown (`pool_not_shown`)."""
    return tuple(name for name, leg in result.evidence.environments.items() if leg.state == "not shown")


def pool_not_shown(result: GateResult) -> bool:
    """Whether the earlier environments together neither were shown to hold nor clearly fell."""
    return result.evidence.pooled is not None and result.evidence.pooled.state == "not shown"


def fell_together(result: GateResult) -> bool:
    """Whether the earlier environments clearly fell together."""
    return result.evidence.pooled is not None and result.evidence.pooled.state == "failed"


def fell(result: GateResult) -> tuple[str, ...]:
    """The environments that clearly fell: their own test rejected the candidate, or the search after the rejection named them."""
    failed = [name for name, leg in result.evidence.environments.items() if leg.state == "failed"]
    return tuple(dict.fromkeys([*failed, *result.evidence.regressed]))


def only_gain_missing(result: GateResult) -> bool:
    """Whether everything held and only the gain was not shown; training then continues from the candidate."""
    return result.verdict == "inconclusive" and result.evidence.gain.state == "not shown" and all_held(result)
