"""The contract of every placement: child processes, and actors of a real Ray cluster of three nodes on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from perdure.agent.cluster.placement import ClusterPiece, Needs, PieceEnd, PieceStanding, Placement
from perdure.memory.errors import InputError

WAIT_S = 120.0
"""The longest that a piece may take to begin or to end on a busy machine."""

pytestmark = pytest.mark.processes


SMALL = Needs(cpus=0.25)


def piece(key: str, needs: Needs = SMALL, **order: object) -> ClusterPiece:
    return ClusterPiece(key=key, kind="echo", order=json.dumps(order).encode(), needs=needs)


def one_end(placement: Placement) -> PieceEnd:
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        for end in placement.ended(1.0):
            return end
    raise AssertionError(f"no end within {WAIT_S} s: {placement.standing()}")


def standing(placement: Placement, holds: Callable[[PieceStanding], object]) -> PieceStanding:
    """The only piece, once this holds of it."""
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        [one] = placement.standing()
        if holds(one):
            return one
        assert placement.ended(0.2) == []
    raise AssertionError(f"it does not hold of {placement.standing()}")


def process_of(one: PieceStanding) -> int:
    """The process that a piece said it is."""
    found = re.search(r"process (\d+)", one.why)
    assert found is not None, one
    return int(found[1])


def speaks(one: PieceStanding) -> bool:
    return one.state == "running" and "process" in one.why


def gone(pid: int) -> bool:
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


def test_the_answer_of_a_piece_comes_once(placement: Placement) -> None:
    placement.start(piece("a", text="ä \x00 \n"))
    end = one_end(placement)
    assert (end.key, end.error, end.lost) == ("a", None, False)
    assert end.answer is not None
    assert json.loads(end.answer)["text"] == "ä \x00 \n"
    assert json.loads(end.answer)["pid"] != os.getpid()
    assert placement.ended(0.1) == []
    assert placement.standing() == []


def test_an_answer_may_be_large(placement: Placement) -> None:
    placement.start(piece("a", text="x" * 3_000_000))
    end = one_end(placement)
    assert end.answer is not None
    assert json.loads(end.answer)["text"] == "x" * 3_000_000


def test_an_error_is_told_in_one_line_and_is_no_loss(placement: Placement) -> None:
    placement.start(piece("a", error="the model\nis missing"))
    assert one_end(placement) == PieceEnd(key="a", error="the model is missing")


def test_a_piece_that_is_stopped_ends_with_its_answer(placement: Placement) -> None:
    placement.start(piece("a", wait_s=600))
    one = standing(placement, speaks)
    assert one.where
    placement.stop("a", grace_s=60)
    end = one_end(placement)
    assert end.answer is not None
    assert json.loads(end.answer)["stopped"] is True
    assert gone(process_of(one))


def test_a_piece_that_does_not_stop_is_killed(placement: Placement) -> None:
    placement.start(piece("a", wait_s=600, deaf=True))
    one = standing(placement, speaks)
    placement.stop("a", grace_s=0.5)
    end = one_end(placement)
    assert (end.error, end.lost) == ("it was asked to end, did not in time, and was killed", False)
    assert gone(process_of(one))


def test_a_killed_piece_is_lost_and_not_run_again_by_itself(placement: Placement) -> None:
    placement.start(piece("a", wait_s=600))
    pid = process_of(standing(placement, speaks))
    os.kill(pid, signal.SIGKILL)
    end = one_end(placement)
    assert (end.key, end.lost, end.answer) == ("a", True, None)
    assert "SIGKILL" in (end.error or "")
    assert placement.ended(2.0) == []
    assert placement.standing() == []


def test_a_key_that_runs_is_refused_and_may_be_used_again_later(placement: Placement) -> None:
    placement.start(piece("a", wait_s=600))
    with pytest.raises(InputError, match="'a' has not ended"):
        placement.start(piece("a"))
    placement.stop("a", grace_s=60)
    one_end(placement)
    placement.start(piece("a", text="again"))
    assert b"again" in (one_end(placement).answer or b"")


def test_what_nobody_has_is_told(placement: Placement) -> None:
    placement.start(piece("a", Needs(cpus=0.25, gpus=1)))
    one = standing(placement, lambda one: "asks for" in one.why)
    assert one.state == "waiting"
    assert re.fullmatch(r"asks for 1 GPU; 0 of (1 node has|2 nodes have) one", one.why)
    placement.stop("a", grace_s=1)
    assert one_end(placement) == PieceEnd(key="a", error="it was stopped before there was room for it")


def test_a_piece_waits_until_there_is_room(placement: Placement) -> None:
    """Two take all that their nodes have, and the third begins when one of them ends."""
    for key in ("a", "b"):
        placement.start(piece(key, Needs(cpus=1), wait_s=600))
    until_s = time.monotonic() + WAIT_S
    while sum(speaks(one) for one in placement.standing()) < 2 and time.monotonic() < until_s:
        assert placement.ended(0.2) == []
    placement.start(piece("c", Needs(cpus=1), text="last"))
    while time.monotonic() < until_s:
        third = next(one for one in placement.standing() if one.key == "c")
        if "taken" in third.why:
            break
        assert placement.ended(0.2) == []
    assert third.state == "waiting"
    assert third.why.startswith("asks for 1 core; ")
    placement.stop("a", grace_s=60)
    assert {one_end(placement).key, one_end(placement).key} == {"a", "c"}


def test_no_kind_is_named_from_outside(placement: Placement) -> None:
    with pytest.raises(InputError, match="no kind of piece 'os:system'"):
        placement.start(ClusterPiece(key="a", kind="os:system", order=b"{}"))  # type: ignore[arg-type]


def test_closing_leaves_no_process(placement: Placement) -> None:
    pids = []
    for key in ("a", "b"):
        placement.start(piece(key, wait_s=600, deaf=True))
    until_s = time.monotonic() + WAIT_S
    while len(pids) < 2 and time.monotonic() < until_s:
        placement.ended(0.2)
        pids = [process_of(one) for one in placement.standing() if speaks(one)]
    assert len(pids) == 2
    placement.close()
    assert all(gone(pid) for pid in pids)
    assert placement.standing() == []
    for pid in pids:
        with suppress(ProcessLookupError):
            assert os.kill(pid, 0) is None
