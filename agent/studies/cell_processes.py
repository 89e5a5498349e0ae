"""Doing one cell, in this process or in others beside it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread

from perdure.agent.studies.cells import Cell, CellResult, Desk, silence
from perdure.agent.studies.provenance import made_by
from perdure.memory.errors import PerdureError

ERRORS = "errors.log"
"""In the study's folder: the tracebacks of cells that failed."""

Say = Callable[[str], None]


def in_processes(cells: Sequence[Cell], folder: Path, at_once: int) -> Iterator[CellResult]:
    """Do cells in processes beside this one.

    If a process dies (its memory, or a kill), those beside it end too. Each cell that was being done is then done again, by itself, where
    it has all the memory; it has failed if its process dies once more.
    """
    waiting = deque(cells)
    while waiting:
        running: dict[Future[CellResult], Cell] = {}
        try:
            with _pool(at_once, max(cell.cores for cell in cells)) as pool:
                yield from _results(pool, waiting, running, folder, at_once)
        except BrokenProcessPool:
            for cell in running.values():
                yield _by_itself(cell, folder)


@contextmanager
def _pool(at_once: int, cores: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one, or at once if this is left by an error."""
    context = multiprocessing.get_context("spawn")
    line, line_end = context.Pipe(duplex=False)  # nothing is ever sent: it is closed when the processes are to end
    with ProcessPoolExecutor(at_once, mp_context=context, initializer=_begin_process, initargs=(cores, line)) as pool:
        try:
            yield pool
        finally:
            line_end.close()  # after Ctrl-C a cell may have minutes to go; what takes long continues in the next run
            pool.shutdown(wait=True, cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor, waiting: deque[Cell], running: dict[Future[CellResult], Cell], folder: Path, at_once: int
) -> Iterator[CellResult]:
    """The results of the cells that wait, as they end; `running` has those that are being done. Raises `BrokenProcessPool`."""
    while waiting or running:
        while waiting and len(running) < at_once:
            running[pool.submit(do, waiting[0], folder, silence)] = waiting[0]
            waiting.popleft()
        ended, _ = wait(running, return_when=FIRST_COMPLETED)
        broken = {future for future in ended if isinstance(future.exception(), BrokenProcessPool)}
        for future in ended - broken:
            del running[future]
            yield future.result()
        if broken:
            raise BrokenProcessPool


def _by_itself(cell: Cell, folder: Path) -> CellResult:
    """Do a cell in a process of its own. If that dies, the cell has failed."""
    started = time.monotonic()
    try:
        with _pool(1, cell.cores) as pool:
            return pool.submit(do, cell, folder, silence).result()
    except BrokenProcessPool:
        return CellResult(
            name=cell.name,
            parameters=cell.parameters,
            made_by=made_by(),
            seconds=time.monotonic() - started,
            error="its process died twice, at last with the machine for itself: too little memory, a kill, or a crash of a library",
        )


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
