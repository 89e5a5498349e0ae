"""The life of a home, read from its store. The only module here that reads."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from perdure.agent.planning.life_so_far import EnvironmentNow, LifeSoFar, Standing, since_promotion
from perdure.learners.panel.panel_items import load_panel
from perdure.learners.panel.panel_limits import compare, items_of
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.environments import anchor_of, environments_in_use
from perdure.memory.errors import InputError, UnknownError
from perdure.memory.evidence.item_scores import panel_scores
from perdure.memory.gates import differences_of, last_verdict
from perdure.memory.jobs import list_jobs
from perdure.memory.processes import events_since
from perdure.memory.stages import list_stages
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import RateRow, success_rates
from perdure.memory.trajectories.traces import imports_with_successes
from perdure.memory.versions import INITIAL, get_version, moves, rolled_back_ancestor, served_line

LATEST_JOBS = 200
LATEST_VERSIONS = 4
"""Older ones no longer matter: each is at most the prior of the next."""
LOOK, QUEUED = "no learning", "learning"
"""The kinds of events of a look that found nothing to learn, and of one that queued a learning job."""

UNPLAYED = RateRow(episodes=0, successes=0, groups=0, mixed_groups=0)


def read_life(store: Store, streamed: Collection[str] | None = None) -> LifeSoFar | None:
    """The life so far; None if no version serves yet. `streamed` names the environments of the stream; None: those of the last daemon."""
    line = served_line(store)
    if not line:
        return None
    if streamed is None:
        streamed = {share.name for stage in list_stages(store) for share in stage.environments}
    rates = [success_rates(store, name) for name in line[-LATEST_VERSIONS:]]
    standings, traces = _standings(store, line[-1]), imports_with_successes(store)
    life = LifeSoFar(
        serving=line[-1],
        environments=tuple(
            EnvironmentNow(
                name=row.name,
                streamed=row.name in streamed,
                rates=tuple(of_version.get(row.name, UNPLAYED) for of_version in rates),
                chance=row.chance,
                oracle=row.oracle,
                traces=traces.get(row.name),
                standing=standings.get(row.name),
            )
            for row in environments_in_use(store)
        ),
        jobs=tuple(list_jobs(store, LATEST_JOBS)),
        rolled_back=frozenset(move.to_version for move in moves(store)) - set(line),
        panel=serving_panel(store, line[-1]),
        fruitless=events_since(store, LOOK, QUEUED),
    )
    made = {job.candidate for job in since_promotion(life) if job.candidate is not None}
    return replace(life, usable=frozenset(name for name in made if _usable(store, name)))


def _standings(store: Store, version: str) -> dict[str, Standing]:
    """A version against the anchors of the environments that have another one."""
    anchors = {row.name: anchor_of(store, row.name) for row in environments_in_use(store)}
    others = {name: anchor for name, anchor in anchors.items() if anchor is not None and anchor != version}
    return {
        name: Standing(difference=sum(values) / len(values), pairs=len(values))
        for name, values in differences_of(store, version, others).items()
    }


def serving_panel(store: Store, version: str) -> PanelResult | None:
    """A version beside the base model, over the items as they are; None if none of them was scored, or if the last gate left the panel out.

    If a file of the home cannot be read, its own skills are left out: jobs say what is wrong with it.
    """
    last = last_verdict(store)
    if last is not None and last.result is not None and last.result.panel is None:
        return None
    try:
        skills = load_panel(store.home)
    except InputError:
        skills = load_panel()
    scores = {name: panel_scores(store, name) for name in dict.fromkeys((INITIAL, version))}
    result = compare(version, version, INITIAL, scores, items_of(skills))
    return result if result.skills else None


def _usable(store: Store, name: str) -> bool:
    try:
        version = get_version(store, name)
    except UnknownError:
        return False
    kept = version.path is None or (store.home / version.path).is_dir()
    return kept and version.state in ("candidate", "rejected") and rolled_back_ancestor(store, name) is None
