"""The tests of a gate in one order: what was to be held, all of it pooled, and what was to be gained."""

from __future__ import annotations

from perdure.memory.contracts.results import GateResult, Leg


def gate_legs(result: GateResult) -> list[tuple[str, str, Leg]]:
    """Name, role and numbers of each."""
    evidence = result.evidence
    rows: list[tuple[str, str, Leg]] = [(name, leg.role or "earlier", leg) for name, leg in evidence.environments.items()]
    if evidence.pooled is not None:
        rows.append(("all earlier ones", "pooled", evidence.pooled))
    rows += [(name, "gain", leg) for name, leg in evidence.trained.items()]
    if len(evidence.trained) > 1:
        rows.append(("all trained ones", "gain", evidence.gain))
    return rows
