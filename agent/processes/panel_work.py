"""The capability panel in the process of a job: a version is scored beside the one before it and the base model, each only once."""

from __future__ import annotations

from perdure.agent.processes.job_work import Work
from perdure.learners.panel.panel_items import Skill, load_panel
from perdure.learners.panel.panel_limits import compare, items_of
from perdure.learners.panel.panel_pass import PanelWork, score_version
from perdure.learners.selection.panel_hold import PanelHold
from perdure.memory.contracts.orders import PanelOrder
from perdure.memory.contracts.panel_results import Asked, PanelResult
from perdure.memory.evidence.item_scores import panel_scores
from perdure.memory.records import Version
from perdure.memory.versions import INITIAL, get_version, served_ancestor, serving


def panel_of_candidate(work: Work, candidate: Version, now_serving: Version) -> PanelResult:
    """The scores that need no sampling, beside those of the serving version, for a gate. Raises `Interrupted`."""
    return _beside(work, candidate.name, now_serving.name, load_panel(work.store.home), "choice", "gating")


def panel_hold(work: Work) -> PanelHold:
    """For a learning job, whose candidate is to hold the panel. Raises `InputError` if a file of the panel is wrong."""
    scoring = PanelWork(run=work.run(), versions=work.versions, say=lambda line: work.pulse.say("working", line))
    return PanelHold(scoring=scoring, skills=load_panel(work.store.home))


def panel_of_order(work: Work, order: PanelOrder) -> PanelResult:
    """What a job on the panel is to find out. Raises `Interrupted`."""
    version = get_version(work.store, order.version) if order.version else serving(work.store)
    before = served_ancestor(work.store, version.name)
    return _beside(work, version.name, before, load_panel(work.store.home), order.asked, "working")


def _beside(work: Work, version: str, before: str, skills: tuple[Skill, ...], asked: Asked, state: str) -> PanelResult:
    three = dict.fromkeys((INITIAL, before, version))
    scoring = PanelWork(run=work.run(), versions=work.versions, say=lambda line: work.pulse.say(state, line))
    for name in three:
        score_version(scoring, name, skills, asked)
    return compare(version, before, INITIAL, {name: panel_scores(work.store, name) for name in three}, items_of(skills))
