"""The kinds of pieces: a fixed table, so that nothing that comes from elsewhere names code. And `echo`, the smallest of them.

A kind is a function `run(order, stop, say) -> answer`. It looks at `stop` at least once a second and ends soon after that is true; `say`
takes one line about what it is doing. What it raises becomes the error of its piece.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from importlib import import_module

from perdure.agent.cluster.placement import Kind
from perdure.memory.errors import InputError, RuntimeFailure

Stopped = Callable[[], bool]
Say = Callable[[str], None]
Run = Callable[[bytes, Stopped, Say], bytes]

KINDS: Mapping[Kind, str] = {
    "player": "perdure.agent.cluster.playing.remote_player:run",
    "cell": "perdure.agent.studies.elsewhere.cell_piece:run",
    "rank": "perdure.agent.cluster.ranks.rank_piece:run",
    "echo": "perdure.agent.cluster.pieces:echo",
}
"""For each kind its module and its function."""

LOOK_S = 0.05


def check_kind(kind: str) -> None:
    """Raise `InputError` if no kind has this name."""
    if kind not in KINDS:
        raise InputError(f"no kind of piece {kind!r}: there are {', '.join(KINDS)}")


def run_piece(kind: Kind, order: bytes, stop: Stopped, say: Say, kinds: Mapping[Kind, str] = KINDS) -> bytes:
    """Do what a piece of this kind does, in this process, and give its answer. Raises `InputError` if there is no such kind."""
    check_kind(kind)
    module, function = kinds[kind].split(":")
    run: Run = getattr(import_module(module), function)
    return run(order, stop, say)


def echo(order: bytes, stop: Stopped, say: Say) -> bytes:
    """Answer `text` of the order (JSON) and the number of this process after `wait_s`, or once stopped unless it is `deaf`; or fail with
    its `error`."""
    asked = json.loads(order)
    say(f"echoes in process {os.getpid()}")
    until_s = time.monotonic() + float(asked.get("wait_s", 0.0))
    while time.monotonic() < until_s and (asked.get("deaf") or not stop()):
        time.sleep(LOOK_S)
    if "error" in asked:
        raise RuntimeFailure(str(asked["error"]))
    return json.dumps({"text": asked.get("text", ""), "pid": os.getpid(), "stopped": stop()}).encode()
