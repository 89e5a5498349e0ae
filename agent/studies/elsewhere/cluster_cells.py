"""The cells of a study on a cluster: each is a piece, and what comes back is checked, written and given as it ends.

A cell whose process or node dies is started again, at most `TRIES` times in all; a result that comes twice counts once. Cells that take a
whole machine without a GPU (those of `life`, which measure how long things take) are done here, one after another. Left out: who places
pieces (`agent/cluster/`), and what a node does (`cell_piece.py`).
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from perdure.agent.cluster.placement import ClusterPiece, Needs, PieceEnd, PieceStanding, Placement
from perdure.agent.studies.cell_processes import ERRORS, Say
from perdure.agent.studies.cells import Cell, CellResult, Finished, Study
from perdure.agent.studies.elsewhere.cell_message import CellMessage, read_message, write_message
from perdure.agent.studies.elsewhere.cell_order import AskedStudy, CellOrder, order_document, read_result
from perdure.agent.studies.local_cells import LocalCells
from perdure.agent.studies.provenance import made_by
from perdure.memory.errors import InputError, PerdureError, Unavailable

TRIES = 3
"""Starts of one cell."""
WAIT_S = 0.5
"""For ends, before it looks at what waits."""
WAITING = 2
"""Pieces that may wait for room, so that no place stays free; as many as run if that is more."""
TELL_S = 30.0
"""Nothing runs for so long: it is said why."""
GIVE_UP_S = 600.0
"""Nothing runs for so long: the cells that wait have failed. A cluster that starts machines when they are asked for needs minutes."""
_ARRIVING = ".arriving"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCells:
    """A `CellPlace`: a cluster, with this machine for what does not travel."""

    placement: Placement
    study: Study
    asked: AskedStudy
    """The same study, as others are told of it."""
    here: LocalCells
    lost: Callable[[], str | None]
    """Why the cluster will not come back; None while it is there."""
    give_up_s: float = GIVE_UP_S

    def room(self, left: Sequence[Cell]) -> int | None:
        return None if any(map(travels, left)) else self.here.room(left)

    def ends(self, left: Sequence[Cell], ended: Finished) -> Iterator[CellResult]:
        travelling = [cell for cell in left if travels(cell)]
        if not travelling:
            yield from self.here.ends(left, ended)
            return
        sending = _Sending(
            placement=self.placement, place=self, ended=ended, from_start=frozenset(cell.name for cell in self.study.cells({}))
        )
        try:
            yield from sending.ends(travelling)
        finally:
            sending.stop()

    @property
    def folder(self) -> Path:
        """Of the study."""
        return self.here.folder

    @property
    def say(self) -> Say:
        """Where progress goes."""
        return self.here.say


def travels(cell: Cell) -> bool:
    """Whether a cell can be done on another machine: unless it takes a whole one without a GPU that it could ask for."""
    return cell.gpus > 0 or not cell.alone


@dataclass(slots=True, kw_only=True)
class _Sending:
    """The cells that are out, and those that wait to be sent."""

    placement: Placement
    place: ClusterCells
    ended: Finished
    from_start: frozenset[str]
    """Cells that the study has before anything is finished: told without results."""
    waiting: deque[Cell] = field(default_factory=deque)
    out: dict[str, Cell] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    idle_since_s: float = field(default_factory=time.monotonic)
    told: str = ""
    stood: Sequence[PieceStanding] = ()

    def ends(self, cells: Sequence[Cell]) -> Iterator[CellResult]:
        self.waiting.extend(cells)
        while self.waiting or self.out:
            standing = self._standing()
            yield from self._send(standing)
            for end in self.placement.ended(WAIT_S):
                self.idle_since_s = time.monotonic()
                cell = self.out.pop(end.key, None)
                if cell is not None:
                    yield from self._result(cell, end)
            yield from self._look(standing)

    def _standing(self) -> Sequence[PieceStanding]:
        """How those that are out stand. While the cluster does not answer, as they stood: whether it is lost is asked in `_look`."""
        with suppress(Unavailable):
            self.stood = self.placement.standing()
        return self.stood

    def stop(self) -> None:
        """Kill what is out, when nobody waits for it any more."""
        for key in self.out:
            self.placement.stop(key, 0.0)

    def _send(self, standing: Sequence[PieceStanding]) -> Iterator[CellResult]:
        """Start as many as find room soon. A cell that cannot be told has failed."""
        running = sum(one.state == "running" for one in standing)
        free = max(WAITING, running) - (len(standing) - running)
        while free > 0 and self.waiting:
            cell, free = self.waiting.popleft(), free - 1
            try:
                piece = self._piece(cell)
            except (PerdureError, OSError) as error:
                yield _failed(cell, str(error))
                continue
            self.starts[cell.name] = self.starts.get(cell.name, 0) + 1
            self.out[piece.key] = cell
            self.placement.start(piece)

    def _piece(self, cell: Cell) -> ClusterPiece:
        missing = [name for name in cell.folders.needs if not (self.place.folder / name).is_dir()]
        if missing:
            raise InputError(f"the folder {missing[0]} of an earlier cell is not in {self.place.folder}: name another folder with --keep")
        order = CellOrder(
            study=self.place.asked,
            cell=cell.name,
            parameters=cell.parameters,
            finished={} if cell.name in self.from_start else self.ended,
        )
        return ClusterPiece(
            key=f"{self.place.study.name}: {cell.name}",
            kind="cell",
            order=write_message(order_document(order), self.place.folder, cell.folders.needs),
            needs=Needs(cpus=cell.cores, gpus=cell.gpus, memory_gib=cell.memory_gib),
        )

    def _result(self, cell: Cell, end: PieceEnd) -> Iterator[CellResult]:
        """What a cell came to; nothing if it is to be tried again."""
        if end.lost and self.starts[cell.name] < TRIES:
            self.place.say(f"{cell.name}: {end.error or 'its process or its node died'}; it is done again")
            self.waiting.appendleft(cell)
        elif end.lost:
            yield _failed(
                cell, f"it was started {TRIES} times, and each time its process or its node died: {end.error or 'no reason known'}"
            )
        elif end.answer is None:
            yield _failed(cell, end.error or "its process ended without an answer")
        else:
            yield self._answer(cell, end.answer)

    def _answer(self, cell: Cell, answer: bytes) -> CellResult:
        try:
            message = read_message(answer)
            result = read_result(message.document.get("result") or {})
            if (result.name, result.parameters) != (cell.name, cell.parameters):
                raise InputError(f"the answer is that of another cell, {result.name}")
            if result.error is None:
                self._take_folders(cell, message)
            elif traceback := message.document.get("traceback"):
                with (self.place.folder / ERRORS).open("a") as log:
                    log.write(str(traceback))
        except (PerdureError, OSError) as error:
            return _failed(cell, str(error))
        return result

    def _take_folders(self, cell: Cell, message: CellMessage) -> None:
        """Put what a cell leaves into the study's folder, each folder as a whole, before its result is kept."""
        others = {name.split("/")[0] for name in message.files} - set(cell.folders.leaves)
        if others:
            raise InputError(f"the answer has files in {min(others)}, which the cell does not leave")
        arriving = self.place.folder / _ARRIVING
        shutil.rmtree(arriving, ignore_errors=True)
        message.write_files(arriving)
        for name in cell.folders.leaves:
            (arriving / name).mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.place.folder / name, ignore_errors=True)
            (arriving / name).rename(self.place.folder / name)

    def _look(self, standing: Sequence[PieceStanding]) -> Iterator[CellResult]:
        """Say why nothing runs, and give up in the end. Raises `Unavailable` if the cluster is lost."""
        lost = self.place.lost()
        if lost is not None:
            raise Unavailable(f"{lost}; what is finished is kept: run the study again when the cluster is back")
        now_s = time.monotonic()
        if not standing or any(one.state == "running" for one in standing):
            self.idle_since_s = now_s
            return
        why = standing[0].why or "the cluster has no room"
        if now_s - self.idle_since_s > TELL_S and why != self.told:
            self.told = why
            self.place.say(f"no cell runs: {why}")
        if now_s - self.idle_since_s > self.place.give_up_s:
            self.stop()
            for cell in (*self.out.values(), *self.waiting):
                yield _failed(cell, f"no machine took it in {self.place.give_up_s:g} s: {why}")
            self.out.clear()
            self.waiting.clear()


def _failed(cell: Cell, error: str) -> CellResult:
    return CellResult(name=cell.name, parameters=cell.parameters, made_by=made_by(), seconds=0.0, error=error)
