"""Why a piece waits, in words."""

from __future__ import annotations

import pytest

from perdure.agent.cluster.placement import Needs
from perdure.agent.cluster.room import NodeRoom, fits, why_waiting

EMPTY = Needs(cpus=0.0)


def node(*, cpus: float = 0.0, gpus: float = 0.0, memory_gib: float = 0.0, free: Needs | None = None) -> NodeRoom:
    total = Needs(cpus=cpus, gpus=gpus, memory_gib=memory_gib)
    return NodeRoom(total=total, free=free or total)


@pytest.mark.parametrize(
    ("needs", "nodes", "why"),
    [
        (Needs(cpus=1, gpus=1), [node(cpus=4), node(cpus=8)], "asks for 1 GPU; 0 of 2 nodes have one"),
        (Needs(cpus=16), [node(cpus=4), node(cpus=8)], "asks for 16 cores; 0 of 2 nodes have as much"),
        (Needs(cpus=1, memory_gib=64), [node(cpus=4, memory_gib=16)], "asks for 64 GiB of memory; 0 of 1 node has as much"),
        (Needs(cpus=8, gpus=1), [node(cpus=4, gpus=1), node(cpus=8)], "asks for 1 GPU and 8 cores; 0 of 2 nodes have all of that"),
        (
            Needs(cpus=4),
            [node(cpus=4, free=Needs(cpus=1)), node(cpus=2)],
            "asks for 4 cores; 1 of 2 nodes has that, and all of it is taken",
        ),
        (Needs(cpus=1), [], "the cluster has no node for pieces yet"),
        (Needs(cpus=1), [node(cpus=4)], ""),
        (Needs(cpus=0.0), [node(cpus=4, free=EMPTY)], ""),
    ],
)
def test_what_nobody_has_is_named(needs: Needs, nodes: list[NodeRoom], why: str) -> None:
    assert why_waiting(needs, nodes) == why


def test_sums_of_fractions_fit() -> None:
    assert fits(Needs(cpus=0.1), Needs(cpus=1 - 9 * 0.1))
    assert not fits(Needs(cpus=0.2), Needs(cpus=1 - 9 * 0.1))
