"""Checks of the form of an answer, as in IFEval (Zhou et al. 2023): what a program can decide without knowing what is right."""

from __future__ import annotations

import json
import re
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal[
    "all_capitals",
    "lower_case",
    "in_quotes",
    "no_commas",
    "json_with_key",
    "words_at_most",
    "words_exactly",
    "sentences_exactly",
    "dashes_exactly",
    "numbers_exactly",
    "begins_with",
    "ends_with",
    "contains",
    "lacks",
]
WITH_NUMBER = ("words_at_most", "words_exactly", "sentences_exactly", "dashes_exactly", "numbers_exactly")
WITH_TEXT = ("json_with_key", "begins_with", "ends_with", "contains", "lacks")

_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_DASH, _NUMBER = re.compile(r"\s*[-*•–]\s+\S"), re.compile(r"\s*\d+[.)]\s+\S")
_QUOTES = {'"': '"', "“": "”", "'": "'"}


class FormCheck(BaseModel):
    """One check. `n` counts words, sentences or lines; `text` is what the answer begins with, ends with, contains or lacks, or a key."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: Kind
    n: int | None = Field(default=None, ge=1)
    text: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _has_its_parameter(self) -> Self:
        wanted = "n" if self.kind in WITH_NUMBER else "text" if self.kind in WITH_TEXT else None
        given = {name for name in ("n", "text") if getattr(self, name) is not None}
        if given != ({wanted} if wanted else set()):
            raise ValueError(f"the check {self.kind} has {f'the parameter {wanted} and no other' if wanted else 'no parameter'}")
        return self


def fulfils(answer: str, check: FormCheck) -> bool:
    """Whether an answer has the form."""
    answer, n, text = answer.strip(), check.n, check.text or ""
    match check.kind:
        case "all_capitals":
            return answer.isupper()
        case "lower_case":
            return answer.islower()
        case "in_quotes":
            return len(answer) > 2 and _QUOTES.get(answer[0]) == answer[-1]
        case "no_commas":
            return bool(answer) and "," not in answer
        case "json_with_key":
            return _has_key(answer, text)
        case "words_at_most":
            return n is not None and 0 < len(answer.split()) <= n
        case "words_exactly":
            return len(answer.split()) == n
        case "sentences_exactly":
            return bool(_SENTENCE_END.search(answer[-1:])) and len(_SENTENCE_END.findall(answer)) == n
        case "dashes_exactly" | "numbers_exactly":
            form = _DASH if check.kind == "dashes_exactly" else _NUMBER
            lines = [line for line in answer.splitlines() if line.strip()]
            return len(lines) == n and all(form.match(line) for line in lines)
        case "begins_with":
            return answer.startswith(text)
        case "ends_with":
            return answer.endswith(text)
        case "contains":
            return text.casefold() in answer.casefold()
        case "lacks":
            return bool(answer) and text.casefold() not in answer.casefold()


def _has_key(answer: str, key: str) -> bool:
    """Whether an answer is a JSON object with this key."""
    try:
        found = json.loads(answer)
    except ValueError:
        return False
    return isinstance(found, dict) and key in found
