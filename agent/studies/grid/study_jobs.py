"""The jobs of a study in one of its homes, in this process: learning with the weights of some updates kept, and the capability panel.

A job is known by its key: one that was cut off continues, one that is done is not done again, and one that failed is tried again, unless
what it came to is a result: it had nothing to learn from, or its weights diverged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from perdure.agent.studies.grid.study_home import OWNER, StudyHome
from perdure.agent.studies.grid.table_rows import PanelRow
from perdure.envs.rollout import never
from perdure.memory.contracts.orders import NOTHING_TO_LEARN, Job, LearnOrder, Order, PanelOrder
from perdure.memory.contracts.panel_results import Asked, PanelResult
from perdure.memory.errors import Diverged, PerdureError, RuntimeFailure
from perdure.memory.evidence.item_scores import panel_scores
from perdure.memory.jobs import add_job, fail_job, finish_job, get_job, lease_job, release_job, requeue_failed, set_job_state, steps
from perdure.memory.leases import TTL_S, BootClock
from perdure.memory.records import Version
from perdure.memory.store import Store
from perdure.memory.versions import INITIAL, add_candidate, get_version, list_versions, promote, serving

if TYPE_CHECKING:
    from perdure.agent.processes.job_work import Work
    from perdure.learners.learning_job import KeepStep
    from perdure.learners.weights.weight_sets import Weights

UNGATED = "this arm has no gate"
DIVERGED = "diverged"
RESULTS = (DIVERGED, NOTHING_TO_LEARN)
"""Errors of learning jobs that begin so are results."""


class NothingLearned(RuntimeFailure):
    """A learner had nothing to learn from, or its weights diverged: a result, and no fault of this machine."""


def learn(home: StudyHome, key: str, targets: Sequence[str], order: LearnOrder, keep: Collection[int] = ()) -> Job:
    """Carry out a learning job and give it, done. The weights after the updates in `keep` become versions (`kept_versions`).

    Raises `NothingLearned`, and whatever else stopped it.
    """
    from perdure.agent.processes.job import carry_out

    start = order.start or serving(home.store).name

    def keep_steps(job: Job) -> KeepStep:
        def keep_step(update: int, weights: Weights) -> None:
            if update in keep:
                _keep(home, f"job{job.id}.{job.attempt}-{update}", start, targets, weights)

        return keep_step

    return _carried_out(home, key, targets, order, carry_out, keep_steps)


def score_panel(home: StudyHome, version: str, asked: Asked) -> list[PanelRow]:
    """All scores of a version on the capability panel."""
    from perdure.learners.panel.panel_items import load_panel
    from perdure.learners.panel.panel_pass import PanelWork, score_version

    def score(work: Work) -> None:
        scoring = PanelWork(run=work.run(), versions=work.versions, say=lambda line: work.pulse.say("working", line))
        score_version(scoring, version, load_panel(work.store.home), asked)
        finish_job(work.store, work.lease, PanelResult(version=version, before=INITIAL, base=INITIAL, skills={}), None)

    _carried_out(home, f"panel of {version}, {asked}", (), PanelOrder(version=version, asked=asked), score)
    kept = panel_scores(home.store, version).items()
    return [PanelRow(skill, item, measure, one.score) for (skill, item, measure), one in kept if one.score is not None]


def kept_versions(store: Store, job: Job) -> dict[int, Version]:
    """The versions of a learning job by update: those that were kept, and its candidate as that of its last update, which it is without
    checks."""
    found: dict[int, Version] = {}
    for version in reversed(list_versions(store)):
        if version.name.startswith(f"job{job.id}."):
            found[int(version.name.rpartition("-")[2])] = version  # of several attempts the last one counts
    if job.candidate is not None:
        found.setdefault(len(steps(store, job.id)), get_version(store, job.candidate))
    return found


def job_of(store: Store, key: str) -> Job:
    """The job of this key. Raises `RuntimeFailure` if there is none."""
    rows = store.rows("SELECT id FROM job WHERE key = ?", (key,))
    if not rows:
        raise RuntimeFailure(f"{store.home} has no job of {key}")
    return get_job(store, rows[0]["id"])


def serve(home: StudyHome, version: str) -> None:
    """Let a candidate serve without a gate; nothing if it serves already."""
    if serving(home.store).name != version:
        promote(home.store, version, UNGATED)


def _keep_none(job: Job) -> KeepStep:
    from perdure.learners.learning_job import keep_no_step

    return keep_no_step


def _carried_out(
    home: StudyHome,
    key: str,
    targets: Sequence[str],
    order: Order,
    work_on: Callable[[Work], None],
    keep_steps: Callable[[Job], KeepStep] = _keep_none,
) -> Job:
    """A job of this key, which `work_on` finishes unless it is done. Raises as `learn` does."""
    from perdure.agent.processes.exit_codes import TRANSIENT, cause_of_error, one_line
    from perdure.agent.processes.job_work import Work
    from perdure.agent.processes.pulse import Pulse

    store = home.store
    job = get_job(store, add_job(store, key, targets, order))
    if job.state == "done":
        return job
    if job.state == "failed":
        if (job.error or "").startswith(RESULTS):
            raise NothingLearned(job.error or "")
        requeue_failed(store, job.id)
    leased = lease_job(store, OWNER, TTL_S, BootClock(), job.id)
    if leased is None:
        raise RuntimeFailure(f"job {job.id} of {store.home} cannot be run: it is {get_job(store, job.id).state}")
    job, lease = leased
    set_job_state(store, lease, "running")
    work = Work(
        store=store,
        config=home.config,
        versions=home.versions,
        job=job,
        lease=lease,
        pulse=Pulse(store, OWNER),
        stop=never,
        keep_step=keep_steps(job),
    )
    try:
        work_on(work)
    except BaseException as error:  # also after an interrupt the job is given back
        with suppress(PerdureError):
            if isinstance(error, Exception) and cause_of_error(error) not in TRANSIENT:
                fail_job(store, lease, f"{DIVERGED}: {one_line(error)}" if isinstance(error, Diverged) else one_line(error))
            else:
                release_job(store, lease)
        if isinstance(error, Diverged):
            raise NothingLearned(f"{DIVERGED}: {one_line(error)}") from error
        if str(error).startswith(NOTHING_TO_LEARN):
            raise NothingLearned(one_line(error)) from error
        raise
    return get_job(store, job.id)


def _keep(home: StudyHome, name: str, parent: str, targets: Sequence[str], weights: Weights) -> None:
    from perdure.learners.weights.adapters import write_version, write_weights

    store, files = home.store, home.versions.engine.files
    path, digest = write_version(store.home, name, files, lambda folder: write_weights(folder, weights, files))
    add_candidate(store, None, name, parent=get_version(store, parent).name, hash=digest, path=path, targets=targets, job=None)
