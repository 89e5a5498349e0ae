"""Ranks that a job asks the cluster's process for, as files of the home: only that process places pieces on other nodes.

The job writes `run/ranks/<job>.json` and waits for its ranks; the cluster's process starts them, notes under `<job>.ends.json` how one
ended and under `<job>.waits.json` why one waits, and stops them once the request is gone. The job removes it at its end; that of a job that
died is removed by `forget_requests`.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from perdure.agent.cluster.placement import ClusterPiece, Needs, PieceStanding, Placement
from perdure.memory.files import MAKING, publish

STOP_GRACE_S = 5.0
LOOK_S = 2.0
"""From one look at why ranks wait to the next."""


def ask_for_ranks(home: Path, job: int, pieces: Sequence[ClusterPiece]) -> None:
    """Ask for these ranks, in place of what this job asked for before."""
    withdraw_ranks(home, job)
    _write(_request(home, job), [{"key": one.key, "order": b64encode(one.order).decode(), "needs": _needs(one.needs)} for one in pieces])


def withdraw_ranks(home: Path, job: int) -> None:
    """The job needs its ranks no more."""
    for file in (_request(home, job), _ends(home, job), _waits(home, job)):
        file.unlink(missing_ok=True)


def ends_of_ranks(home: Path, job: int) -> list[str]:
    """How ranks of this job ended before their time, each in a line."""
    return _lines(_ends(home, job))


def waits_of_ranks(home: Path, job: int) -> list[str]:
    """Why ranks of this job are not placed yet, each in a line."""
    return _lines(_waits(home, job))


def forget_requests(home: Path, at_work: Collection[int]) -> None:
    """Remove the requests of all jobs but these."""
    for job in _jobs(home):
        if job not in at_work:
            withdraw_ranks(home, job)


class RankPlacer:
    """The part of the cluster's process that places ranks: call `tick` in each round, and `note` with every piece that ended."""

    def __init__(self, home: Path, placement: Placement) -> None:
        self._home, self._placement = home, placement
        self._placed: dict[str, int] = {}
        """The job of each piece that was started."""
        self._waits: dict[int, list[str]] = {}
        self._looked_s = -LOOK_S

    def tick(self) -> None:
        """Start what is asked for, and stop what is asked for no more. No rank is started again: its job is."""
        wanted = {piece.key: (job, piece) for job in _jobs(self._home) for piece in self._asked(job)}
        for key, (job, piece) in wanted.items():
            if key not in self._placed:
                self._placed[key] = job
                self._placement.start(piece)
        for key in self._placed.keys() - wanted.keys():
            self._placement.stop(key, STOP_GRACE_S)
            del self._placed[key]
        if self._placed and time.monotonic() - self._looked_s > LOOK_S:
            self._looked_s = time.monotonic()
            self._note_waits()

    def note(self, key: str, error: str | None) -> bool:
        """Whether this piece is a rank; how it ended is written down for its job."""
        job = self._placed.get(key)
        if job is not None and error is not None and _request(self._home, job).is_file():
            _write(_ends(self._home, job), [*ends_of_ranks(self._home, job), f"{key}: {error}"])
        return job is not None

    def _note_waits(self) -> None:
        """Write down why ranks wait, if that has changed."""
        standing = {one.key: one for one in self._placement.standing()}
        for job in set(self._placed.values()):
            lines = waiting_lines([standing[key] for key, of in self._placed.items() if of == job and key in standing])
            if lines != self._waits.get(job, []) and _request(self._home, job).is_file():
                self._waits[job] = lines
                _write(_waits(self._home, job), lines)

    def _asked(self, job: int) -> list[ClusterPiece]:
        with suppress(OSError, ValueError, KeyError, TypeError):  # it was removed meanwhile
            return [
                ClusterPiece(key=one["key"], kind="rank", order=b64decode(one["order"]), needs=Needs(**one["needs"]))
                for one in json.loads(_request(self._home, job).read_text())
            ]
        return []


def waiting_lines(standing: Sequence[PieceStanding]) -> list[str]:
    """Why pieces wait, each in a line."""
    return [f"{one.key} {one.why}" for one in standing if one.state == "waiting"]


def _lines(file: Path) -> list[str]:
    with suppress(OSError, ValueError):
        return [str(line) for line in json.loads(file.read_text())]
    return []


def _jobs(home: Path) -> list[int]:
    return sorted(int(file.stem) for file in _request(home, 0).parent.glob("*.json") if file.stem.isdigit())


def _request(home: Path, job: int) -> Path:
    return home / "run" / "ranks" / f"{job}.json"


def _ends(home: Path, job: int) -> Path:
    return _request(home, job).with_suffix(".ends.json")


def _waits(home: Path, job: int) -> Path:
    return _request(home, job).with_suffix(".waits.json")


def _needs(needs: Needs) -> dict[str, float]:
    return {"cpus": needs.cpus, "gpus": needs.gpus, "memory_gib": needs.memory_gib}


def _write(final: Path, document: object) -> None:
    final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = final.with_name(f"{MAKING}{final.name}")
    made.touch(mode=0o600)  # an order has the token of the job's ranks
    made.write_text(json.dumps(document))
    publish(made, final)
