"""Files of items for tests, and skills read from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perdure.learners.panel.panel_items import Skill, read_skill

HEADER = {"skill": "colours", "about": "Colours of things.", "form": "Answer with one word."}
SKY = {"id": "colours-1", "prompt": "What colour is a clear sky?", "right": "blue", "wrong": ["red", "green"], "accept": ["azure"]}
SNOW = {"id": "colours-2", "prompt": "What colour is snow?", "right": "white", "wrong": ["black"]}
EXAMPLE = {"prompt": "What colour is grass?", "right": "green"}
TEXTS = {"skill": "notes", "about": "Two notes."}
NOTES = [{"id": "notes-1", "text": "Say yes or no."}, {"id": "notes-2", "text": "Which number is the largest? apple bread chair"}]


def written(folder: Path, lines: Sequence[Any], name: str = "colours") -> Path:
    """A file with these lines; a text is written as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.jsonl"
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def skill(folder: Path, header: dict[str, Any] = HEADER, items: Sequence[dict[str, Any]] = (SKY, SNOW)) -> Skill:
    return read_skill(written(folder, [header, *items], header["skill"]))
