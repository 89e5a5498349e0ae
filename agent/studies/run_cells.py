"""Doing the cells of a study: those that are not finished, several at once if the machine has room, each kept as soon as it ends.

A cell that fails is marked with its error, and the rest goes on; the next run tries it again. A run that is killed loses only the cells
that were being done, and those that take long continue where they stopped if they kept their work in the study's folder.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

from perdure.agent.bench.measure import TimeLeft
from perdure.agent.studies.cells import Cell, CellResult, Desk, Finished, Study, done
from perdure.agent.studies.provenance import made_by
from perdure.agent.studies.study_file import StudyFile
from perdure.memory.errors import InputError, PerdureError, RuntimeFailure

SAY_EVERY_S = 5.0
SAY_FIRST_S = 180.0
GIB = 2**30
ERRORS = "errors.log"
"""In the study's folder: the tracebacks of cells that failed."""

Say = Callable[[str], None]


def run_study(study: Study, file: StudyFile, say: Say, at_once: int | None = None) -> dict[str, CellResult]:
    """Do what is left of a study, and give the cells that it consists of: all are done, or have failed in this run.

    `at_once` is how many cells may run beside each other; by default as many as the machine has room for. Raises `InputError` if the file
    has a cell of the same name with other parameters.
    """
    tried: dict[str, CellResult] = {}
    progress: _Progress | None = None
    while True:
        known = file.results()
        finished = done(known)
        cells = study.cells(finished | {name: result for name, result in tried.items() if result.error is not None})
        _check(cells, finished)
        left = [cell for cell in cells if cell.name not in finished and cell.name not in tried]
        if not left:
            return {cell.name: known[cell.name] for cell in cells}
        beside = [cell for cell in left if not cell.alone]
        at_a_time = at_once or room(beside)
        if progress is None:
            progress = _Progress(say, finished=len(cells) - len(left))
        progress.plan(cells, left, at_a_time if beside else 1)
        for result in _all_ends(beside, left, file.folder, say, at_a_time):
            file.keep(result)
            tried[result.name] = result
            progress.ended(next(cell for cell in left if cell.name == result.name), result)
            if not beside:
                break  # one that takes the whole machine may lead to more cells


def room(cells: Sequence[Cell]) -> int:
    """How many of these cells fit on this machine at once, each with the cores and the memory of the largest one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    most_cores = max((cell.cores for cell in cells), default=1)
    most_gib = max((cell.memory_gib for cell in cells), default=1.0)
    return max(1, min(cores // most_cores, int(memory_gib // most_gib)))


def _check(cells: Sequence[Cell], finished: Finished) -> None:
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        raise ValueError(f"two cells have one name: {names}")
    for cell in cells:
        if cell.name in finished and finished[cell.name].parameters != cell.parameters:
            raise InputError(
                f"cell {cell.name} was made with other parameters ({finished[cell.name].parameters}, now {cell.parameters}): "
                "name another folder with --keep"
            )


def _all_ends(beside: Sequence[Cell], left: Sequence[Cell], folder: Path, say: Say, at_once: int) -> Iterator[CellResult]:
    """Do the cells that can run beside each other first, or, if there are none, the others in turn."""
    if not beside:
        yield from (do(cell, folder, say) for cell in left)
    elif at_once == 1:
        yield from (do(cell, folder, say) for cell in beside)
    else:
        yield from _in_processes(beside, folder, min(at_once, len(beside)))


def _in_processes(cells: Sequence[Cell], folder: Path, at_once: int) -> Iterator[CellResult]:
    context = multiprocessing.get_context("spawn")
    cores = max(cell.cores for cell in cells)
    line, line_end = context.Pipe(duplex=False)  # nothing is ever sent: it is closed when the processes are to end
    with ProcessPoolExecutor(at_once, mp_context=context, initializer=_begin_process, initargs=(cores, line)) as pool:
        waiting = iter(cells)
        running: set[Future[CellResult]] = set()
        try:
            while True:
                for cell in waiting:
                    running.add(pool.submit(do, cell, folder, _silence))
                    if len(running) >= 2 * at_once:  # each process has its next cell at hand
                        break
                if not running:
                    return
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)
        except BrokenProcessPool as error:
            raise RuntimeFailure("a process of the study died (its memory, or a kill): what is finished is kept; run it again") from error
        finally:
            line_end.close()  # after Ctrl-C a cell may have minutes to go; what takes long continues in the next run
            pool.shutdown(wait=True, cancel_futures=True)


def _begin_process(cores: int, line: Connection) -> None:
    """In a process of the pool: torch gets this many threads, Ctrl-C is the parent's affair, and it ends if the parent says so or dies."""
    os.environ["OMP_NUM_THREADS"] = str(cores)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel, line])
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()


def _silence(line: str) -> None:
    pass


def do(cell: Cell, folder: Path, say: Say) -> CellResult:
    """Do one cell, and time it."""
    started = time.monotonic()
    rows: Iterable[dict[str, object]] = ()
    error: str | None = None
    try:
        rows = tuple(cell.work(cell.parameters, Desk(folder=folder, say=say)))
    except Exception as failure:  # noqa: BLE001 - a cell that fails is written down as failed, whatever the error
        error = str(failure) if isinstance(failure, PerdureError) else f"{type(failure).__name__}: {failure}"
        with (folder / ERRORS).open("a") as log:
            log.write(f"{cell.name}\n{traceback.format_exc()}\n")
    return CellResult(
        name=cell.name,
        parameters=cell.parameters,
        made_by=made_by(),
        seconds=time.monotonic() - started,
        rows=tuple(rows),
        error=error,
    )


class _Progress:
    """Says how far the study is, not more often than every few seconds, also into a pipe."""

    def __init__(self, say: Say, finished: int) -> None:
        self._say = say
        self._before = finished
        self._total = 0
        self._ended = 0
        self._time = TimeLeft(total=0.0)
        self._said_s = 0.0
        if finished:
            say(f"{finished} cells were finished before")

    def plan(self, cells: Sequence[Cell], left: Sequence[Cell], at_once: int) -> None:
        """The cells as they are known now, and those that are left; says what begins if that takes more than a few minutes."""
        expected_s = sum(cell.expected_s for cell in left)
        self._total = len(cells)
        self._time.total = self._time.done + expected_s
        if expected_s / at_once > SAY_FIRST_S:
            about = f"{expected_s / at_once / 60:.0f} minutes if each takes as long as expected"
            self._say(f"{len(left)} cells to do now, {at_once} at a time: {about}")

    def ended(self, cell: Cell, result: CellResult) -> None:
        self._ended += 1
        self._time.done += cell.expected_s
        if result.error is not None:
            self._say(f"{cell.name} failed: {result.error}")
        now_s = time.monotonic()
        last = self._before + self._ended >= self._total
        if cell.alone or last or now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            self._say(f"{cell.name} done: {self._before + self._ended} of {self._total} cells, {self._time.left()}")
