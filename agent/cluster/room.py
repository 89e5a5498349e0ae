"""Room on nodes: whether a piece fits, and in words why it waits. How a placement learns what its nodes have is its own matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.agent.cluster.placement import Needs

SLACK = 1e-6
"""Of sums of fractions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """What one node has."""

    total: Needs
    free: Needs


def fits(needs: Needs, room: Needs) -> bool:
    """Whether a node with this room takes a piece with these needs."""
    return all(asked <= there + SLACK for asked, there in zip(_parts(needs), _parts(room), strict=True))


def why_waiting(needs: Needs, nodes: Sequence[NodeRoom]) -> str:
    """Why a piece has not been placed: 'asks for 1 GPU; 0 of 2 nodes have one'. Empty if there is room for it."""
    if not nodes:
        return "the cluster has no node for pieces yet"
    if any(fits(needs, node.free) for node in nodes):
        return ""
    those = f"of {len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    able = sum(fits(needs, node.total) for node in nodes)
    if able:
        return f"asks for {_all(needs)}; {able} {those} {_have(able)} that, and all of it is taken"
    for n, (asked, words) in enumerate(zip(_parts(needs), _words(needs), strict=True)):
        if asked > 0 and not any(asked <= _parts(node.total)[n] + SLACK for node in nodes):
            return f"asks for {words}; 0 {those} {_have(len(nodes))} {'one' if asked == 1 and n < 2 else 'as much'}"
    return f"asks for {_all(needs)}; 0 {those} {_have(len(nodes))} all of that"


def _parts(needs: Needs) -> tuple[float, float, float]:
    return needs.gpus, needs.cpus, needs.memory_gib


def _words(needs: Needs) -> tuple[str, str, str]:
    return (
        f"{needs.gpus:g} GPU{'' if needs.gpus == 1 else 's'}",
        f"{needs.cpus:g} core{'' if needs.cpus == 1 else 's'}",
        f"{needs.memory_gib:g} GiB of memory",
    )


def _all(needs: Needs) -> str:
    return " and ".join(words for asked, words in zip(_parts(needs), _words(needs), strict=True) if asked > 0)


def _have(nodes: int) -> str:
    return "has" if nodes == 1 else "have"
