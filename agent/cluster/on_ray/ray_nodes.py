"""What the nodes of the joined Ray cluster have: read from Ray, with a limit, in our own words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from perdure.agent.cluster.placement import Needs
from perdure.agent.cluster.room import NodeRoom
from perdure.memory.errors import RuntimeFailure, Unavailable

ASK_S = 10.0
"""How long a question to the head of the cluster may take."""
LOOK_S = 0.25
GIB = 2**30

_Answer = TypeVar("_Answer")


def limited(ask: Callable[[], _Answer], timeout_s: float, what: str, lost: Callable[[], str | None] = lambda: None) -> _Answer:
    """The answer of a call that knows no limit of its own. Raises `Unavailable` if it takes longer; its thread is then left behind.

    `lost` says why there will be no answer, for a `RuntimeFailure` at once.
    """
    answers: list[_Answer] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            answers.append(ask())
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that asked
            errors.append(error)

    thread = threading.Thread(target=call, name=what, daemon=True)
    thread.start()
    until_s = time.monotonic() + timeout_s
    while thread.is_alive() and time.monotonic() < until_s:
        thread.join(min(LOOK_S, max(0.0, until_s - time.monotonic())))
        why = lost() if thread.is_alive() else None
        if why is not None:
            raise RuntimeFailure(why)
    if errors:
        raise errors[0]
    if not answers:
        raise Unavailable(f"{what} has taken more than {timeout_s:g} s: the cluster does not answer")
    return answers[0]


def rooms(timeout_s: float = ASK_S) -> list[NodeRoom]:
    """The room of every node that is alive and takes pieces. Raises `Unavailable` if the head of the cluster does not answer."""
    return limited(_rooms, timeout_s, "asking the cluster for its nodes")


def _rooms() -> list[NodeRoom]:
    import ray
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [
        NodeRoom(total=_needs(node["Resources"]), free=_needs(free.get(node["NodeID"], {})))
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) > 0
    ]


def _needs(resources: Mapping[str, Any]) -> Needs:
    return Needs(
        cpus=float(resources.get("CPU", 0.0)),
        gpus=float(resources.get("GPU", 0.0)),
        memory_gib=float(resources.get("memory", 0.0)) / GIB,
    )
