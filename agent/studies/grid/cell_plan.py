"""What the cells of learner studies have in common: their folders, what they take of the machine, and how long they take, about."""

from __future__ import annotations

import re
from collections.abc import Mapping

from perdure.agent.studies.cells import NO_FOLDERS, Cell, CellFolders, CellWork
from perdure.agent.studies.grid.grid_file import GridFile
from perdure.memory.contracts.orders import OptionValue
from perdure.memory.json_value import Document

CORES = 1
"""Of one cell: two cells of one thread each do more than one of two threads."""
FULL_TUNING = 2.0
"""Times as much memory: all weights in float32, with their gradients and AdamW's two moments."""
OPEN_S = 5.0
ANSWER_S = 0.025
"""To sample one answer of the default model, and what is shared of it."""
LESSON_S = 0.055
"""To sample one episode and learn from it."""
PANEL_S = {"off": 0.0, "choice": 30.0, "all": 80.0}


def learner_cell(
    file: GridFile,
    name: str,
    parameters: Document,
    work: CellWork,
    seconds: float,
    options: Mapping[str, OptionValue] | None = None,
    folders: CellFolders = NO_FOLDERS,
) -> Cell:
    """A cell that loads a model, and learns with these options if it does.

    On a GPU it has the machine for itself, and a process of its own, so that nothing stays on the GPU after it.
    """
    on_gpu = file.home.get("device") == "cuda"
    is_full = options is not None and options.get("tuning") == "full"
    return Cell(
        name=name,
        parameters=parameters,
        work=work,
        expected_s=OPEN_S + seconds,
        alone=on_gpu,
        cores=CORES,
        memory_gib=file.study.memory_gib * (FULL_TUNING if is_full else 1),
        gpus=int(on_gpu),
        folders=folders,
        own_process=on_gpu,
    )


def folder_of(cell: str) -> str:
    """The folder in which a cell works, by its name."""
    return re.sub(r"[^a-z0-9.]+", "-", cell.lower()).strip("-")


def learn_s(options: Mapping[str, OptionValue]) -> float:
    """Seconds of a learning job on one core, about."""
    return float(options.get("updates", 12)) * float(options.get("prompts", 16)) * float(options.get("samples", 8)) * LESSON_S


def score_s(answers: int, panel: str = "off") -> float:
    """Seconds of scoring this many answers, and of the capability panel, about."""
    return answers * ANSWER_S + PANEL_S[panel]
