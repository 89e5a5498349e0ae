"""`perdure study run lives`: its cells, one a life. `lives_table.py` has what they come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from perdure.agent.studies.cells import Cell, CellWork, Desk, Finished, Study
from perdure.agent.studies.lives.conditions import CONDITIONS
from perdure.agent.studies.lives.offers import offered
from perdure.agent.studies.lives.simulated_life import live, summary
from perdure.memory.json_value import Document

NAME = "lives"
LIVES = 100
SMALL_LIVES = 10
OFFERS_ROW = "offers"
OFFER_NOISES: Mapping[str, float | None] = {OFFERS_ROW: None, f"{OFFERS_ROW}, q .1": 0.1}
LIVES_OF_OFFERS = 3
"""Times as many lives: each gives one answer to an offer, yes or no."""


def lives_study(lives: int = LIVES) -> Study:
    """`lives` lives under each condition, and three times as many in which bad candidates are offered."""

    def cells(finished: Finished) -> Sequence[Cell]:
        return [
            *(_cell(row, n, offer_life) for row in OFFER_NOISES for n in range(LIVES_OF_OFFERS * lives)),
            *(_cell(row, n, one_life) for row in CONDITIONS for n in range(lives)),
        ]

    return Study(name=NAME, cells=cells)


def _cell(row: str, n: int, work: CellWork) -> Cell:
    return Cell(name=f"{row}, life {n}", parameters={"row": row, "life": n}, work=work)


def one_life(parameters: Document, desk: Desk) -> Iterator[Document]:
    """A life under one condition: one row."""
    condition = CONDITIONS[parameters["row"]]
    home, counts = live(condition.model, condition.looks, Random(f"{parameters['row']} {parameters['life']}"))
    yield {"row": parameters["row"], **summary(home, counts)}


def offer_life(parameters: Document, desk: Desk) -> Iterator[Document]:
    """A good life with bad offers at its end: one row an offer."""
    yield from ({"row": parameters["row"], **row} for row in offered(parameters["life"], OFFER_NOISES[parameters["row"]]))
