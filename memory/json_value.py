"""JSON: its types, records as JSON objects, and JSON text; and text that can be stored."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

JsonValue = bool | int | float | str | None | list["JsonValue"] | dict[str, "JsonValue"]
"""What `json.loads` returns."""
JsonObject = dict[str, JsonValue]
_HALVES = re.compile("[\ud800-\udfff]")
Document = dict[str, Any]
"""A JSON object that is only passed on, as to `--json`."""


def record_json(record: DataclassInstance, times: Sequence[str] = ()) -> Document:
    """A record as a JSON object with a key for each field. `times` names the fields that are Unix seconds."""
    values = asdict(record, dict_factory=lambda pairs: {name: _plain(value) for name, value in pairs})
    for name in times:
        values[name] = None if values[name] is None else iso_utc(values[name])
    return values


def iso_utc(unix_s: float) -> str:
    """A time for people and scripts: '2026-11-23T08:15:00+00:00'."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # in no year that has a date: damaged
        return f"{unix_s:g} s after 1970"


def to_json(value: Any) -> str:
    """JSON text. Numbers that are not finite become null, because JSON has none."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):  # checking every number first would cost more than the writing
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False)


def storable(text: str) -> str:
    """The text with U+FFFD in the place of each half of a surrogate pair, which foreign code can make: those have no UTF-8, so that no
    file, store or tokenizer takes them."""
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def _plain(value: Any) -> Any:
    """Tuples as lists and paths as texts."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
