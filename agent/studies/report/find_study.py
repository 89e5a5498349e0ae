"""Which study is meant by a name, a folder, or LAST."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.studies.cells import CellResult
from perdure.agent.studies.study_file import FILE_NAME, last_finished, read_study
from perdure.memory.errors import InputError, UnknownError
from perdure.memory.json_value import Document

LAST = "LAST"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    """A study as it lies in its folder, finished or not."""

    name: str
    folder: Path
    cells: Mapping[str, CellResult]
    """All of the study as it is now that were tried, those that failed too."""
    summary: Document
    """What `study run` wrote at its end; empty before."""
    summary_is_old: bool = False
    """Whether a cell has ended since it was written."""


def find_study(wanted: str, keep: Path) -> Path:
    """The folder of a study: LAST is the one whose newest cell is the newest of all in `keep`, else a name in `keep`, else a folder.

    Raises `UnknownError` if there is none, with the names of those that are there.
    """
    kept = sorted(path.parent for path in keep.glob(f"*/{FILE_NAME}"))
    if wanted == LAST:
        ended = {folder: moment for folder in kept if (moment := last_finished(folder)) is not None}
        if not ended:
            raise UnknownError(f"no study in {keep} has a finished cell: run one with `perdure study run`, or name its folder with --keep")
        return max(ended, key=lambda folder: ended[folder])
    path = Path(wanted).expanduser()
    for folder in (keep / wanted, path, path.parent if path.name == FILE_NAME else path):
        if (folder / FILE_NAME).is_file():
            return folder.absolute()
    there = f"there are {', '.join(folder.name for folder in kept)}" if kept else "none is kept there"
    raise UnknownError(f"no study {wanted}: it is neither a name in {keep} ({there}) nor a folder with a {FILE_NAME}")


def load_study(folder: Path) -> StoredStudy:
    """Read a study, also while another process works on it. Raises `InputError` if it has no cell yet, or its summary is damaged."""
    cells = read_study(folder)
    if not cells:
        raise InputError(f"the study in {folder} has no cell yet: `perdure study run` makes them")
    path, newest = _summary_path(folder), last_finished(folder)
    return StoredStudy(
        name=folder.name,
        folder=folder,
        cells=cells,
        summary={} if path is None else _read_summary(path),
        summary_is_old=path is not None and newest is not None and path.stat().st_mtime < newest,
    )


def _summary_path(folder: Path) -> Path | None:
    """A folder that was copied under another name keeps its summary, if that is the only JSON file there."""
    named, others = folder / f"{folder.name}.json", list(folder.glob("*.json"))
    if named.is_file():
        return named
    return others[0] if len(others) == 1 else None


def _read_summary(path: Path) -> Document:
    try:
        summary = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): delete it, `perdure study run` writes it again") from error
    return summary if isinstance(summary, dict) else {}
