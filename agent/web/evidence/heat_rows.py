"""The rows of a heat map from the flat cells of `views/retention_matrix.py`.

There is one for each version, newest first, with a place for each column.

What a version is compared with: the anchor of the environment, pair by pair if one of its gates was against it, else score by score; and
on the panel the base model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perdure.memory.json_value import Document

MOST_CELLS = 700
"""Of both maps of a page together."""
FEWEST_VERSIONS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatCell:
    """A version in one environment."""

    score: float | None
    low: float | None
    high: float | None
    n: int
    """Seeds; 0 if only the dev score is known."""
    is_anchor: bool
    change: float | None
    """Against the anchor; None of the anchor itself, and if one of the two was never scored."""
    paired: bool
    """Whether `change` is over pairs of a gate."""
    is_dev: bool
    """Whether the score is that of the dev seeds, because no gate drew any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatRow:
    """A version in all environments, or with all skills."""

    version: Document
    cells: Sequence[HeatCell | None]
    skills: Sequence[Document | None]


def heat_rows(document: Document) -> list[HeatRow]:
    """Newest first. `cells` has the order of the document's environments, `skills` that of its skills; None if nothing is known."""
    cells = {(one["version"], one["environment"]): one for one in document["cells"]}
    skills = {(one["version"], one["skill"], one["measure"]): one for one in document["panel"]}
    return [
        HeatRow(
            version=version,
            cells=[_cell(cells, version["name"], environment) for environment in document["environments"]],
            skills=[skills.get((version["name"], skill["skill"], skill["measure"])) for skill in document["skills"]],
        )
        for version in reversed(document["versions"])
    ]


def versions_that_fit(columns: int, most: int) -> int:
    """How many versions a page shows, so that it stays small with many environments and skills."""
    return max(FEWEST_VERSIONS, min(most, MOST_CELLS // max(columns, 1)))


def _cell(cells: Mapping[tuple[str, str], Document], version: str, environment: Document) -> HeatCell | None:
    found = cells.get((version, environment["environment"]))
    if found is None:
        return None
    anchor = environment["anchor"]
    score, is_dev = _score(found)
    paired = [gate["difference"] for gate in found["gates"] if gate["reference"] == anchor and gate["difference"] is not None]
    of_anchor = None if anchor is None else cells.get((anchor, environment["environment"]))
    change = None
    if paired and not found["is_anchor"]:
        change = paired[-1]
    elif of_anchor is not None and not found["is_anchor"]:
        other, _ = _score(of_anchor)
        change = None if score is None or other is None else score - other
    return HeatCell(
        score=score,
        low=None if is_dev else found["low"],
        high=None if is_dev else found["high"],
        n=found["n"],
        is_anchor=found["is_anchor"],
        change=change,
        paired=bool(paired),
        is_dev=is_dev,
    )


def _score(cell: Document) -> tuple[float | None, bool]:
    """The score, and whether it is that of dev seeds."""
    if cell["score"] is None and cell["dev"] is not None:
        return cell["dev"]["score"], True
    return cell["score"], False
