"""The process of one piece, in which a player has a scripted model and writes down what it was told. All else in it is the real one."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.agent.cluster.scripted_player import ScriptedModel
from tests.faults.acknowledged import AcknowledgingJournal, acknowledgements_of
from tests.faults.arming import take_fault
from tests.faults.cluster.witness import PAUSE_S, VARIABLE

from perdure.agent.cluster.piece_program import main
from perdure.agent.cluster.pieces import KINDS, Say
from perdure.agent.cluster.playing.fetched_model import Ask, RemoteModel
from perdure.agent.cluster.playing.player_order import PlayerOrder, read_order
from perdure.agent.cluster.playing.remote_player import PlayerParts, play_for
from perdure.memory.json_value import Document


def play(order: bytes, stop: Callable[[], bool], say: Say) -> bytes:
    """A player. It has the base model's files, which name it to the head, and loads none."""
    home = Path(os.environ[VARIABLE]) / "home"
    take_fault(home, "player")
    witness = partial(AcknowledgingJournal, path=acknowledgements_of(home))
    return play_for(read_order(order), stop, say, PlayerParts(open_model=open_slow, journal=witness))


def open_slow(order: PlayerOrder, welcome: Document, ask: Ask, say: Say) -> RemoteModel:
    return ScriptedModel(ask, PAUSE_S)


if __name__ == "__main__":
    raise SystemExit(main({**KINDS, "player": "tests.faults.cluster.piece_program:play"}))
