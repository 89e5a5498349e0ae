"""All versions as a tree, and one of them: where it comes from, what its gates showed, and what a person can do with it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from perdure.agent.web.evidence.gate_legs import gate_legs
from perdure.agent.web.evidence.panel_of_version import panel_of_version
from perdure.agent.web.evidence.replayed_gate import replay_gate
from perdure.agent.web.evidence.version_list import last_gates, made_from, page_of_versions
from perdure.agent.web.evidence.version_tree import MOST_LANES, version_tree
from perdure.agent.web.evidence.wealth_chart import wealth_charts
from perdure.agent.web.pages.evidence.asked import MaybeName, given
from perdure.agent.web.pages.rendering import page
from perdure.agent.web.stores import AtHome
from perdure.memory.environments import anchor_of, list_environments
from perdure.memory.gates import gates_of
from perdure.memory.versions import get_version, list_versions, moves, served_before, served_line

ON_A_PAGE = 100
MOST_CHILDREN = 50

router = APIRouter(include_in_schema=False)


@router.get("/versions")
def versions(request: Request, at: AtHome, before: MaybeName = None) -> Response:
    with at.reading() as store:
        shown, next_ = page_of_versions(store, ON_A_PAGE, given(before))
        gates = last_gates(store, [one.name for one in shown])
        line = served_line(store)
    rows = version_tree([(one.name, one.parent) for one in shown])
    lanes = 1 + max((lane for row in rows for lane in (row.lane, *row.through)), default=0)
    return page(
        request,
        "versions.html",
        rows=list(zip(shown, rows, strict=True)),
        lanes=min(lanes, MOST_LANES),
        gates=gates,
        serving=line[-1] if line else None,
        line=line,
        next=next_,
        before=given(before),
    )


@router.get("/versions/{name}")
def version(request: Request, at: AtHome, name: str) -> Response:
    with at.reading() as store:
        found = get_version(store, name)
        gates = gates_of(store, name)
        last = gates[-1] if gates else None
        replay = None if last is None else replay_gate(store, last)
        log = [move for move in moves(store) if name in (move.from_version, move.to_version)]
        line = served_line(store)
        before = served_before(store)
        panel = panel_of_version(store, found, gates)
        children = made_from(store, name)
        anchors = [row.name for row in list_environments(store) if anchor_of(store, row.name) == name]
        others = [one.name for one in list_versions(store)[:ON_A_PAGE] if one.name != name]
        on_disk = found.path is None or (store.home / found.path).is_dir()
    return page(
        request,
        "version.html",
        version=found,
        gates=list(reversed(gates)),
        last=last,
        legs=[] if last is None or last.result is None else gate_legs(last.result),
        drawn=None if replay is None else wealth_charts(replay),
        moves=list(reversed(log)),
        serving=line[-1] if line else None,
        before=None if before is None else before.name,
        panel=panel,
        children=children[:MOST_CHILDREN],
        children_in_all=len(children),
        anchors=anchors,
        others=others,
        on_disk=on_disk,
    )
