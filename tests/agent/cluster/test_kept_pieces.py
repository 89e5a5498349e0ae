"""Pieces are kept placed: in a scripted placement, and as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from contextlib import closing

import pytest

from perdure.agent.cluster.kept_pieces import KeptPieces, KeptState, summary
from perdure.agent.cluster.local_placement import LocalPlacement
from perdure.agent.cluster.placement import ClusterPiece, Needs, PieceEnd, PieceStanding

KILLED = "its process was ended by SIGKILL"


class ScriptedPlacement:
    """Says what it was told to say."""

    def __init__(self) -> None:
        self.started: list[ClusterPiece] = []
        self.stands: list[PieceStanding] = []

    def start(self, piece: ClusterPiece) -> None:
        self.started.append(piece)

    def ended(self, timeout_s: float) -> list[PieceEnd]:
        return []

    def standing(self) -> list[PieceStanding]:
        return self.stands

    def stop(self, key: str, grace_s: float) -> None:
        raise AssertionError("nothing is stopped")

    def close(self) -> None: ...


def order(name: str) -> bytes:
    return json.dumps({"wait_s": 600, "text": name}).encode()


def test_each_is_started_once_and_again_after_its_end() -> None:
    placement = ScriptedPlacement()
    kept = KeptPieces(placement, "echo", ["player-1", "player-2"], Needs(cpus=2), order, time.monotonic)
    kept.start_due()
    kept.start_due()
    assert [(one.key, one.kind, one.needs.cpus) for one in placement.started] == [("player-1", "echo", 2), ("player-2", "echo", 2)]
    [death] = kept.note([PieceEnd(key="job-1-rank-1", error="of another"), PieceEnd(key="player-2", error=KILLED, lost=True)])
    assert (death.name, death.message) == ("player-2", f"{KILLED}; it starts again in 0.5 s")
    kept.start_due()
    assert len(placement.started) == 2
    time.sleep(0.6)
    kept.start_due()
    assert [one.key for one in placement.started] == ["player-1", "player-2", "player-2"]


def test_the_wait_grows_while_one_fails_again_and_again() -> None:
    placement = ScriptedPlacement()
    kept = KeptPieces(placement, "echo", ["player-1"], Needs(), order, time.monotonic)
    waits = []
    for _ in range(3):
        until_s = time.monotonic() + 10
        before = len(placement.started)
        while len(placement.started) == before and time.monotonic() < until_s:
            kept.start_due()
            time.sleep(0.01)
        [death] = kept.note([PieceEnd(key="player-1", error="its node has no Perdure")])
        waits.append(re.search(r"in ([\d.]+) s", death.message)[1])  # type: ignore[index]
    assert waits == ["0.5", "1", "2"]


def test_states_say_where_or_why() -> None:
    placement = ScriptedPlacement()
    kept = KeptPieces(placement, "echo", ["player-1", "player-2", "player-3"], Needs(), order, time.monotonic)
    kept.start_due()
    kept.note([PieceEnd(key="player-3", error="its node died", lost=True)])
    placement.stands = [
        PieceStanding(key="player-1", state="running", where="a100-3", why="plays"),
        PieceStanding(key="player-2", state="waiting", why="asks for 1 GPU; 0 of 2 nodes have one"),
    ]
    assert [(one.state, one.detail) for one in kept.states()] == [
        ("running", "on a100-3: plays"),
        ("waiting", "asks for 1 GPU; 0 of 2 nodes have one"),
        ("waiting", "its node died; it starts again soon"),
    ]


def test_the_summary_joins_those_with_the_same_reason() -> None:
    states = [
        KeptState(name="player-1", state="running", detail="on a"),
        KeptState(name="player-2", state="waiting", detail="asks for 1 GPU; 0 of 2 nodes have one"),
        KeptState(name="player-3", state="waiting", detail="asks for 1 GPU; 0 of 2 nodes have one"),
    ]
    assert summary(states) == "1 of 3 run; player-2 and 1 more wait: asks for 1 GPU; 0 of 2 nodes have one"
    assert summary(states[:1]) == "1 of 1 run"


@pytest.mark.processes
def test_a_killed_process_is_replaced() -> None:
    with closing(LocalPlacement(Needs(cpus=2))) as placement:
        kept = KeptPieces(placement, "echo", ["player-1"], Needs(cpus=0.5), order, time.monotonic)

        def process() -> int:
            until_s = time.monotonic() + 120
            while time.monotonic() < until_s:
                kept.start_due()
                kept.note(placement.ended(0.2))
                found = re.search(r"process (\d+)", kept.states()[0].detail)
                if found is not None and kept.states()[0].state == "running":
                    return int(found[1])
            raise AssertionError(kept.states())

        first = process()
        os.kill(first, signal.SIGKILL)
        until_s = time.monotonic() + 60
        deaths = []
        while not deaths and time.monotonic() < until_s:
            deaths = kept.note(placement.ended(0.2))
        assert deaths[0].message == f"{KILLED}; it starts again in 0.5 s"
        assert process() != first
