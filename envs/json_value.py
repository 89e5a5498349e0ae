"""JSON as a type: what `json.loads` gives, for documents that are passed on and for fields that are checked when they are read."""

from __future__ import annotations

JsonValue = bool | int | float | str | None | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]
