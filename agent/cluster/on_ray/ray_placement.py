"""Pieces as actors of a Ray cluster that this process has joined (`ray_runtime.py`).

An actor is never restarted and no call to it is repeated by Ray: a piece that was killed is told as lost, and who placed it decides.
Each piece has one question under way, for its news; Ray answers it with an error when the node or the actor dies, within some 20 s if the
node is silent. Call a placement from one thread.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from perdure.agent.cluster.node_versions import other_version, versions_here
from perdure.agent.cluster.on_ray.piece_actor import PieceActor
from perdure.agent.cluster.on_ray.ray_errors import in_one_line, is_of_node, is_passing
from perdure.agent.cluster.on_ray.ray_nodes import rooms
from perdure.agent.cluster.pieces import check_kind
from perdure.agent.cluster.placement import ClusterPiece, PieceEnd, PieceStanding
from perdure.agent.cluster.room import why_waiting
from perdure.memory.errors import InputError

CLOSE_GRACE_S = 3.0
KILL_S = 10.0
"""After the grace of a stopped piece its actor has so long to tell its end; then the actor is killed."""
ANSWER_S = 10.0
"""How long fetching an answer that is there may take."""
AGAIN_S = 1.0
"""Before a node that cannot be reached is asked again."""
GIB = 2**30


@dataclass(slots=True, kw_only=True)
class _Placed:
    """A piece, its actor, and the question to it that is under way."""

    piece: ClusterPiece
    actor: Any
    question: Any = None
    step: Literal["node", "begin", "news"] = "node"
    """What is asked: which node it is and what it has, to begin the piece, and then its news again and again."""
    seen: int = 0
    where: str = ""
    said: str = ""
    kill_s: float | None = None
    """When its actor is killed, on the monotonic clock."""
    ask_s: float | None = None
    """When it is asked again, if its node could not be reached."""


class RayPlacement:
    """Implements `placement.py:Placement`."""

    def __init__(self, host: type[PieceActor] = PieceActor) -> None:
        """Each piece gets an actor of this class, which nodes find by its name."""
        import ray

        self._ray = ray
        self._host = ray.remote(host)
        self._placed: dict[str, _Placed] = {}
        self._ended: list[PieceEnd] = []

    def start(self, piece: ClusterPiece) -> None:
        check_kind(piece.kind)
        if piece.key in self._placed:
            raise InputError(f"piece {piece.key!r} has not ended: stop it, or give the new one another key")
        needs = piece.needs
        actor = self._host.options(
            num_cpus=needs.cpus,
            num_gpus=needs.gpus,
            memory=int(needs.memory_gib * GIB) or None,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=4,
            scheduling_strategy="SPREAD",
        ).remote()
        self._placed[piece.key] = one = _Placed(piece=piece, actor=actor)
        self._ask(one)

    def ended(self, timeout_s: float) -> list[PieceEnd]:
        until_s = time.monotonic() + timeout_s
        while True:
            self._look(0.0)
            left_s = until_s - time.monotonic()
            if self._ended or left_s <= 0:
                ended, self._ended = self._ended, []
                return ended
            self._look(min(left_s, AGAIN_S))

    def standing(self) -> list[PieceStanding]:
        self._look(0.0)
        waiting = [one for one in self._placed.values() if one.step == "node"]
        nodes = rooms() if waiting else []
        return [
            PieceStanding(key=key, state="running", where=one.where, why=one.said)
            if one.step != "node"
            else PieceStanding(key=key, state="waiting", why=why_waiting(one.piece.needs, nodes) or "is being started")
            for key, one in self._placed.items()
        ]

    def stop(self, key: str, grace_s: float) -> None:
        one = self._placed.get(key)
        if one is None:
            return
        if one.step == "news":
            one.actor.stop.remote(grace_s)
            one.kill_s = time.monotonic() + grace_s + KILL_S
        else:
            self._end(one, PieceEnd(key=key, error="it was stopped before there was room for it"))

    def close(self) -> None:
        for key in list(self._placed):
            self.stop(key, CLOSE_GRACE_S)
        until_s = time.monotonic() + CLOSE_GRACE_S + KILL_S
        while self._placed and time.monotonic() < until_s:
            self._look(AGAIN_S)
        for one in list(self._placed.values()):
            self._end(one, PieceEnd(key=one.piece.key, error="its node did not answer when it was to end"))

    def _look(self, timeout_s: float) -> None:
        """Take what is new, waiting at most so long for it."""
        now_s = time.monotonic()
        for one in list(self._placed.values()):
            if one.kill_s is not None and now_s > one.kill_s:
                self._end(one, PieceEnd(key=one.piece.key, error="it was asked to end, its node did not answer, and it was killed"))
            elif one.ask_s is not None and now_s > one.ask_s:
                self._ask(one)
        asked = {one.question: one for one in self._placed.values() if one.ask_s is None}
        if not asked:
            time.sleep(min(timeout_s, AGAIN_S))
            return
        ready, _ = self._ray.wait(list(asked), num_returns=1, timeout=timeout_s, fetch_local=False)
        if ready and len(asked) > 1:
            ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0, fetch_local=False)
        for question in ready:
            self._hear(asked[question])

    def _hear(self, one: _Placed) -> None:
        """Take the answer to its question, and ask the next one."""
        try:
            answer = self._ray.get(one.question, timeout=ANSWER_S)
        except Exception as error:  # noqa: BLE001 - whatever Ray tells of a piece becomes its end
            if is_passing(error):  # its node cannot be reached just now: Ray decides whether it is dead
                one.ask_s = time.monotonic() + AGAIN_S
            else:
                self._end(one, PieceEnd(key=one.piece.key, error=in_one_line(error), lost=is_of_node(error)))
            return
        end: PieceEnd | None = None
        match one.step:
            case "node":
                one.where, one.step = answer["where"], "begin"
                why = other_version(one.where, answer["versions"], versions_here())
                end = PieceEnd(key=one.piece.key, error=why) if why else None
            case "begin":
                one.step = "news"
            case "news":
                one.seen, one.said = answer["seen"], answer["said"]
                end = PieceEnd(key=one.piece.key, **answer["end"]) if answer["end"] else None
        if end is not None:
            self._end(one, end)
        else:
            self._ask(one)

    def _ask(self, one: _Placed) -> None:
        one.ask_s = None
        piece, actor = one.piece, one.actor
        try:
            match one.step:
                case "node":
                    one.question = actor.node.remote()
                case "begin":
                    one.question = actor.begin.remote(piece.key, piece.kind, piece.order, piece.needs.cpus)
                case "news":
                    one.question = actor.news.remote(one.seen)
        except Exception as error:  # noqa: BLE001 - such as a full object store; the piece ends with it
            self._end(one, PieceEnd(key=piece.key, error=in_one_line(error), lost=True))

    def _end(self, one: _Placed, end: PieceEnd) -> None:
        del self._placed[one.piece.key]
        self._ended.append(end)
        self._kill(one.actor)

    def _kill(self, actor: Any) -> None:
        with suppress(Exception):
            self._ray.kill(actor, no_restart=True)
