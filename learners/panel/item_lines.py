"""The lines of a file of panel items: which keys they have. What they must say together is checked in `panel_items.py`."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.learners.panel.form_checks import FormCheck
from perdure.memory.errors import InputError

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Example(_Line):
    """A solved question, shown for the measure `cued`."""

    prompt: Text
    right: Text


class ItemHeader(_Line):
    """The first line of a file."""

    skill: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    about: Text
    form: str = ""
    example: Example | None = None
    answer_in_prompt: bool = False
    licence: str = ""


class QuestionLine(_Line):
    """A question."""

    id: Text
    prompt: Text
    right: Text
    wrong: tuple[Text, ...] = Field(min_length=1, max_length=3, strict=False)
    accept: tuple[Text, ...] = Field(default=(), strict=False)
    check: FormCheck | None = None
    harmful: bool | None = None


class PassageLine(_Line):
    """A text whose cross-entropy is measured."""

    id: Text
    text: Text


Model = TypeVar("Model", bound=_Line)


def read_bytes(file: Path) -> bytes:
    """All of a file. Raises `InputError`."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from error


def documents(content: bytes, file: Path) -> list[tuple[str, dict[str, object]]]:
    """The JSON objects that stand in a file, each with where. Raises `InputError`."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    found = []
    for n, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except ValueError as error:
            raise InputError(f"{file}, line {n} is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise InputError(f"{file}, line {n} is no JSON object")
        if "\\ud" in line.casefold() and not _is_text(document):
            raise InputError(f"{file}, line {n} has half of a surrogate pair, which is no character")
        found.append((f"{file}, line {n}", document))
    return found


def parsed(model: type[Model], document: dict[str, object], where: str) -> Model:
    """One line as its model. Raises `InputError` naming the key that is wrong."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = get_close_matches(key, model.model_fields, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(model.model_fields)}"
            raise InputError(f"{where}: no key {key!r}; {known}") from None
        if first["type"] == "missing":
            raise InputError(f"{where}: the key {key!r} is missing") from None
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where}: {key}: {message[:1].lower()}{message[1:]}") from None


def _is_text(document: object) -> bool:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
