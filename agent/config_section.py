"""What every section of the configuration is: frozen, with strict types, without unknown keys, and with errors that quote no secret."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
