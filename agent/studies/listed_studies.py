"""The studies that come with Perdure and those of a folder, and how far each is. One that cannot be read is listed with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from perdure.agent.studies.catalogue import STUDIES
from perdure.agent.studies.study_file import FILE_NAME, CellCounts, cell_counts
from perdure.memory.errors import PerdureError
from perdure.memory.json_value import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedStudy:
    """A study that comes with Perdure, or that was run."""

    name: str
    about: str
    folder: Path
    is_there: bool
    """Whether it was ever run here."""
    counts: CellCounts | None
    error: str | None
    """Why it cannot be read."""

    def as_json(self) -> Document:
        """The listing's keys."""
        done, failed = (self.counts.done, self.counts.failed) if self.counts else (0, 0)
        return {"name": self.name, "about": self.about, "done": done, "failed": failed, "folder": str(self.folder), "error": self.error}


def list_studies(keep: Path) -> list[ListedStudy]:
    """Those that come with Perdure, then the others of the folder `keep` by name."""
    there = {path.parent.name for path in keep.glob(f"*/{FILE_NAME}")}
    return [_listed(name, keep / name, name in there) for name in (*STUDIES, *sorted(there - STUDIES.keys()))]


def _listed(name: str, folder: Path, is_there: bool) -> ListedStudy:
    counts, error = None, None
    if is_there:
        try:
            counts = cell_counts(folder)
        except PerdureError as why:
            error = str(why)
    about = STUDIES[name][0] if name in STUDIES else "of a file"
    return ListedStudy(name=name, about=about, folder=folder, is_there=is_there, counts=counts, error=error)
