"""Doing one cell on a node, in the process of its piece.

It works in a folder of its own in the node's folder for temporary files. If its process dies and it is started again on this node, it
continues there with what it kept; on another node it begins anew. The folder goes when the cell is done. Left out: ending when asked. It is
killed then, as after Ctrl-C on one machine, and continues as above.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO

from perdure.agent.studies.cell_processes import ERRORS, do
from perdure.agent.studies.elsewhere.cell_message import read_message, write_message
from perdure.agent.studies.elsewhere.cell_order import find_cell, read_order, result_document
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.json_value import to_json

FORGOTTEN_S = 7 * 86400.0
"""A cell's folder that nobody has touched for so long is removed."""
_BEGUN = "begun"
_LOCK = "lock"


def run(order: bytes, stop: Callable[[], bool], say: Callable[[str], None]) -> bytes:
    """Do the cell that was ordered, and answer its result with the folders that it leaves.

    Raises `InputError` if this program has no such cell, `RuntimeFailure` if what it leaves cannot travel.
    """
    message = read_message(order)
    told = read_order(message.document)
    place = {key: value for key, value in message.document.items() if key != "finished"}
    with _folder_of_cell(hashlib.sha256(to_json(place).encode()).hexdigest()[:32]) as folder:
        cell = find_cell(told, folder)
        work = folder / "study"
        if not (folder / _BEGUN).exists():
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            message.write_files(work)
            (folder / _BEGUN).touch()
        (work / ERRORS).unlink(missing_ok=True)
        result = do(cell, work, say)
        traces = (work / ERRORS).read_text() if (work / ERRORS).exists() else ""
        leaves = cell.folders.leaves if result.error is None else ()
        answer = write_message({"result": result_document(result), "traceback": traces}, work, leaves)
        if result.error is None:
            shutil.rmtree(folder, ignore_errors=True)
        return answer


@contextmanager
def _folder_of_cell(name: str) -> Iterator[Path]:
    """The folder of this cell on this node, held; the next one if another process holds it: what was given up may live still."""
    root = _own_root()
    for n in count():
        folder = root / f"{name}-{n}"
        folder.mkdir(exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            if _hold(lock):
                _forget_old(root, folder)
                yield folder
                return


def _hold(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _own_root() -> Path:
    """The folder of this user's cells. Raises `InputError` if another user made it, who could read and change what lies there."""
    root = Path(tempfile.gettempdir()) / f"perdure-cells-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        found = root.lstat()
    except OSError as error:
        raise RuntimeFailure(
            f"cannot write to {root}: {error.strerror}; set TMPDIR on this node to a folder that can be written"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError(f"{root} is not a folder of this user alone: remove it, or set TMPDIR on this node to another folder")
    return root


def _forget_old(root: Path, own: Path) -> None:
    """Remove what cells left that were given up: nobody came back to them."""
    oldest = time.time() - FORGOTTEN_S
    for folder in root.iterdir():
        if folder != own and folder.is_dir() and folder.stat().st_mtime < oldest:
            with (folder / _LOCK).open("w") as lock:
                if _hold(lock):
                    shutil.rmtree(folder, ignore_errors=True)
