"""How a cell is told to another machine: the study by its name (or its file's text) and its conditions, the cell by its name.

The other side makes the study anew from these, and finds the cell in it; parameters are sent only to be compared. A cell that follows from
the results of others is told with those.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from perdure import __version__
from perdure.agent.studies.catalogue import STUDIES, ReadyStudy, StudySettings, prepare_study
from perdure.agent.studies.cells import Cell, CellResult, Finished
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document

FILE_NAME = "study.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedStudy:
    """A study as it was asked for."""

    name: str
    """In the catalogue, or of the file."""
    settings: StudySettings
    text: str | None = None
    """Of the TOML file; None for a study that comes with Perdure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellOrder:
    """A cell of a study."""

    study: AskedStudy
    cell: str
    parameters: Document
    finished: Finished
    """That the cell follows from; empty if the study has it from the start."""


def asked(study: str, settings: StudySettings) -> AskedStudy:
    """A study that was named on the command line, once `prepare_study` has accepted it."""
    if study in STUDIES:
        return AskedStudy(name=study, settings=settings)
    return AskedStudy(name=study, settings=settings, text=Path(study).expanduser().read_text(encoding="utf-8"))


def order_document(order: CellOrder) -> Document:
    """An order as JSON."""
    return {
        "perdure": __version__,
        "study": order.study.name,
        "settings": asdict(order.study.settings),
        "text": order.study.text,
        "cell": order.cell,
        "parameters": order.parameters,
        "finished": [result_document(result) for result in order.finished.values()],
    }


def read_order(document: Document) -> CellOrder:
    """An order from JSON. Raises `InputError` if it is none, or if another version of Perdure gave it."""
    theirs = document.get("perdure")
    if theirs != __version__:
        raise InputError(f"the head has Perdure {theirs}, this node has {__version__}: install the same version on both")
    try:
        return CellOrder(
            study=AskedStudy(name=str(document["study"]), settings=StudySettings(**document["settings"]), text=document["text"]),
            cell=str(document["cell"]),
            parameters=dict(document["parameters"]),
            finished={result.name: result for result in map(read_result, document["finished"])},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"this is no order for a cell: {type(error).__name__}: {error}") from error


def find_cell(order: CellOrder, folder: Path) -> Cell:
    """The cell that is meant, in the study made anew; `folder` is for the text of its file.

    Raises `InputError` if the study does not have it, or has it with other parameters.
    """
    cells = {cell.name: cell for cell in _study(order.study, folder).study.cells(order.finished)}
    if order.cell not in cells:
        raise InputError(f"the study {order.study.name} has no cell {order.cell!r} on this node: install the same program as on the head")
    cell = cells[order.cell]
    if cell.parameters != order.parameters:
        raise InputError(
            f"cell {cell.name} has other parameters on this node ({cell.parameters}, on the head {order.parameters}): "
            "install the same program as on the head"
        )
    return cell


def result_document(result: CellResult) -> Document:
    """A result as JSON."""
    return {**asdict(result), "rows": list(result.rows)}


def read_result(document: Document) -> CellResult:
    """A result from JSON. Raises `InputError` if it is none."""
    try:
        return CellResult(
            name=str(document["name"]),
            parameters=dict(document["parameters"]),
            made_by=str(document["made_by"]),
            seconds=float(document["seconds"]),
            rows=tuple(dict(row) for row in document["rows"]),
            error=None if document["error"] is None else str(document["error"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"this is no result of a cell: {type(error).__name__}: {error}") from error


def _study(study: AskedStudy, folder: Path) -> ReadyStudy:
    if study.text is None:
        if study.name not in STUDIES:
            raise InputError(f"this node has no study {study.name!r}: install the same program as on the head")
        return prepare_study(study.name, study.settings)
    path = folder / FILE_NAME
    path.write_text(study.text, encoding="utf-8")
    return prepare_study(str(path), study.settings)
