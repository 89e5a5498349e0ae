"""Rules before and after a gate: which versions play dev seeds, and what a verdict leads to. Pure functions of stored evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from perdure.memory.contracts.results import Evidence, GateResult

REPLACES_ANCHOR = 200.0
"""The e-value with which a version replaces an anchor: alpha = .005."""


def need_dev_scores(anchors: Mapping[str, str], trained: Collection[str], serving: str) -> tuple[dict[str, str], dict[str, str]]:
    """The versions that play dev seeds before a gate, by environment: every anchor, and the serving version if it is another one.

    An anchor's score decides whether its environment votes, the serving version's whether a trained environment needs a gain.
    """
    return dict(anchors), {name: serving for name in trained if anchors.get(name) != serving}


def improved(evidence: Evidence) -> list[str]:
    """The trained environments whose own gain was shown."""
    return [name for name, leg in evidence.trained.items() if leg.state == "passed"]


def beaten_anchors(evidence: Evidence, anchors: Mapping[str, str | None]) -> list[str]:
    """The improved environments whose anchor is replaced: the candidate was compared with that anchor, and beat it clearly."""
    return [
        name
        for name in improved(evidence)
        if (leg := evidence.trained[name]).reference == anchors.get(name) and (leg.wealth or 0.0) >= REPLACES_ANCHOR
    ]


def only_gain_missing(result: GateResult) -> bool:
    """Whether everything held and only the gain was not shown; training then continues from the candidate."""
    evidence = result.evidence
    legs = [*evidence.environments.values(), *([evidence.pooled] if evidence.pooled else [])]
    all_held = all(leg.state in ("passed", "vacuous", "not asked") for leg in legs)
    return result.verdict == "inconclusive" and evidence.gain.state == "not shown" and all_held
