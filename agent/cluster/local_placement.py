"""Pieces as child processes on this machine, which end with the process that placed them. It is one node, with the room that it is told."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

from perdure.agent.cluster.piece_process import PieceProcess
from perdure.agent.cluster.pieces import check_kind
from perdure.agent.cluster.placement import ClusterPiece, Needs, PieceEnd, PieceStanding
from perdure.agent.cluster.room import SLACK, NodeRoom, fits, why_waiting
from perdure.agent.control_groups import usable_cores
from perdure.memory.errors import InputError

CLOSE_GRACE_S = 5.0
CLOSE_S = 10.0
"""How long `close` waits for the kernel to end what was killed."""


def room_here() -> Needs:
    """The cores, GPUs and memory of this machine."""
    gpus = len([device for device in Path("/dev").glob("nvidia[0-9]*") if device.name[6:].isdigit()])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Needs(cpus=float(usable_cores()), gpus=float(gpus), memory_gib=memory / 2**30)


class LocalPlacement:
    """Implements `placement.py:Placement`. Pieces start in the order in which they came, each as soon as it fits."""

    def __init__(self, room: Needs | None = None) -> None:
        self._room = room or room_here()
        self._load = [0.0] * int(self._room.gpus)
        """Of each GPU."""
        self._waiting: dict[str, ClusterPiece] = {}
        self._running: dict[str, tuple[ClusterPiece, PieceProcess, dict[int, float]]] = {}
        self._ended: list[PieceEnd] = []
        self._changed = threading.Condition()

    def start(self, piece: ClusterPiece) -> None:
        check_kind(piece.kind)
        with self._changed:
            if piece.key in self._waiting or piece.key in self._running:
                raise InputError(f"piece {piece.key!r} has not ended: stop it, or give the new one another key")
            self._waiting[piece.key] = piece
        self._look()

    def ended(self, timeout_s: float) -> list[PieceEnd]:
        until_s = time.monotonic() + timeout_s
        while True:
            self._look()
            with self._changed:
                if not self._ended and not any(process.end for _, process, _ in self._running.values()):
                    left_s = until_s - time.monotonic()
                    if left_s <= 0:
                        return []
                    self._changed.wait(left_s)
                    continue
            self._look()
            with self._changed:
                ended, self._ended = self._ended, []
            return ended

    def standing(self) -> list[PieceStanding]:
        self._look()
        with self._changed:
            where = os.uname().nodename
            running = [PieceStanding(key=key, state="running", where=where, why=one.said) for key, (_, one, _) in self._running.items()]
            node = NodeRoom(total=self._room, free=self._free())
            waiting = [PieceStanding(key=key, state="waiting", why=why_waiting(one.needs, [node])) for key, one in self._waiting.items()]
            return running + waiting

    def stop(self, key: str, grace_s: float) -> None:
        with self._changed:
            if self._waiting.pop(key, None) is not None:
                self._ended.append(PieceEnd(key=key, error="it was stopped before there was room for it"))
                self._changed.notify_all()
            elif key in self._running:
                self._running[key][1].stop(grace_s)

    def close(self) -> None:
        with self._changed:
            self._waiting.clear()
            for _, process, _ in self._running.values():
                process.stop(CLOSE_GRACE_S)
            until_s = time.monotonic() + CLOSE_GRACE_S + CLOSE_S
            while any(process.end is None for _, process, _ in self._running.values()) and time.monotonic() < until_s:
                self._changed.wait(0.5)
        self._look()

    def _look(self) -> None:
        """Take the ends of those that ended, and start those that fit now."""
        with self._changed:
            for key, (_, process, devices) in list(self._running.items()):
                if process.end is not None:
                    self._ended.append(process.end)
                    for device, share in devices.items():
                        self._load[device] -= share
                    del self._running[key]
            for key, piece in list(self._waiting.items()):
                if fits(piece.needs, self._free()):
                    given = self._devices(piece.needs.gpus)
                    if given is not None:
                        del self._waiting[key]
                        seen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, given))} if self._load else {}
                        self._running[key] = piece, PieceProcess(piece, self._notify, seen), given

    def _devices(self, gpus: float) -> dict[int, float] | None:
        """Take this many GPUs, or a part of one; None if no GPU has so much left, though all together may have."""
        share = min(1.0, gpus)
        able = [n for n, load in enumerate(self._load) if load + share <= 1.0 + SLACK][: math.ceil(gpus - SLACK)]
        if len(able) < math.ceil(gpus - SLACK):
            return None
        for n in able:
            self._load[n] += share
        return dict.fromkeys(able, share)

    def _free(self) -> Needs:
        taken = [piece.needs for piece, _, _ in self._running.values()]
        return Needs(
            cpus=self._room.cpus - sum(one.cpus for one in taken),
            gpus=self._room.gpus - sum(one.gpus for one in taken),
            memory_gib=self._room.memory_gib - sum(one.memory_gib for one in taken),
        )

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
