"""What a page may be asked for: numbers that the store can hold, and texts of a bounded length."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

MOST = 2**63 - 1
"""The largest whole number that the store holds."""

Number = Annotated[int, Path(ge=0, le=MOST)]
"""The number of an episode, a gate or a turn, in the path."""
MaybeNumber = Annotated[int | None, Query(ge=0, le=MOST)]
Name = Annotated[str, Query(max_length=2000)]
MaybeName = Annotated[str | None, Query(max_length=2000)]
"""The name of an environment or a version; empty, as from a form's choice of any, counts as none (`given`)."""


def given(value: str | None) -> str | None:
    """The value of a choice in a form; None if nothing was chosen."""
    return value or None
