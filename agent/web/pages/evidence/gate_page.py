"""One gate: its verdict, the evidence of each test drawn over the rounds, and its pairs, each with the way to both answers."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response

from perdure.agent.show.gate_table import answers_drawn
from perdure.agent.web.evidence.gate_legs import gate_legs
from perdure.agent.web.evidence.replayed_gate import replay_gate
from perdure.agent.web.evidence.wealth_chart import wealth_charts
from perdure.agent.web.pages.evidence.asked import MaybeName, Number, given
from perdure.agent.web.pages.rendering import page
from perdure.agent.web.stores import AtHome
from perdure.agent.web.views.retention_matrix import gate_pairs
from perdure.learners.gate.former_gates import sampling_of
from perdure.memory.environments import require
from perdure.memory.gates import get_gate

MOST_PAIRS = 600
"""Of one environment; a gate has at most some hundred."""
FIRST_PAIRS = 60
"""If no environment was chosen."""

router = APIRouter(include_in_schema=False)


@router.get("/gates/{number}")
def gate(
    request: Request, at: AtHome, number: Number, environment: MaybeName = None, role: Literal["", "earlier", "trained"] = ""
) -> Response:
    wanted = given(environment)
    with at.reading() as store:
        found = get_gate(store, number)
        if wanted is not None:
            require(store, wanted)
        replay = replay_gate(store, found)
        counts = store.rows(
            "SELECT environment, role, count(*) AS n FROM pair WHERE gate = ? GROUP BY environment, role ORDER BY environment", (number,)
        )
        pairs = gate_pairs(store, number, environment=wanted, role=role or None, limit=FIRST_PAIRS if wanted is None else MOST_PAIRS)
    sampling = sampling_of(found.terms)
    in_all = sum(row["n"] for row in counts if wanted in (None, row["environment"]) and role in ("", row["role"]))
    return page(
        request,
        "gate.html",
        gate=found,
        result=found.result,
        legs=[] if found.result is None else gate_legs(found.result),
        replay=replay,
        drawn=None if replay is None else wealth_charts(replay),
        answers=answers_drawn(sampling.temperature, sampling.samples),
        environments=list(dict.fromkeys(row["environment"] for row in counts)),
        pairs=pairs,
        in_all=in_all,
        environment=wanted,
        role=role,
    )
