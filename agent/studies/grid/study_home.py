"""A home that a cell of a study works in: the real store, learners, actor and gate, in this process and on one engine.

What is learned and played live is in the home as in any other, so that a cell that was cut off continues: a job is known by its key, and
resumes after its last update. What a study measures is not: the episodes of its probes are scored and forgotten.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.agent.config import Config
from perdure.agent.home import HomeLock
from perdure.agent.studies.grid.table_rows import TaskScores
from perdure.envs.playing import Attempt
from perdure.envs.rollout import never, play
from perdure.envs.seeds import dev_seed, probe_seed, train_seed
from perdure.memory.contracts.orders import NOTHING_TO_LEARN, Job, LearnOrder
from perdure.memory.environments import list_environments, register
from perdure.memory.errors import Diverged, LeaseLost, PerdureError, RuntimeFailure
from perdure.memory.jobs import add_job, fail_job, get_job, lease_job, release_job, set_job_state, steps
from perdure.memory.leases import TTL_S, BootClock, end_all_leases
from perdure.memory.records import Ending, EpisodePlan, Lease, Turn, Version, VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, anything_to_play
from perdure.memory.versions import add_candidate, add_initial, get_version, list_versions, serving

if TYPE_CHECKING:
    from perdure.learners.engines.loaded_versions import LoadedVersions
    from perdure.learners.weights.weight_sets import Weights

OWNER = f"study:{os.getpid()}"
WIDTH = 128
"""Episodes that are measured at once."""
UNGATED = "this arm has no gate"
MEASURING = Lease(subject=0, owner=OWNER, attempt=1)
"""Of episodes that are not kept."""

Say = Callable[[str], None]
TaskSeed = Callable[[int, str, int], int]
"""The seed of draw r of an environment: `dev_seed` or `probe_seed`."""
DEV: TaskSeed = dev_seed
TEST: TaskSeed = probe_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHome:
    """An open home. Use `open_study_home`."""

    store: Store
    config: Config
    versions: LoadedVersions


class NothingLearned(RuntimeFailure):
    """A learner had nothing to learn from, or its weights diverged: a result, and no fault of this machine."""


@contextmanager
def removed_if_it_fails(folder: Path) -> Iterator[None]:
    """Remove the folder of a cell if an error inside is of the cell's own making, so that the next try begins anew. After a full disk, an
    interrupt or a kill it stays, and the next try continues."""
    from perdure.agent.processes.exit_codes import TRANSIENT, cause_of_error

    try:
        yield
    except Exception as error:
        if cause_of_error(error) not in TRANSIENT:
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def open_study_home(home: Path, config: Config, training_seed: int, say: Say) -> Iterator[StudyHome]:
    """Open a home of a study, or make it, with its model."""
    from perdure.agent.processes.open_engine import open_engine
    from perdure.learners.engines.loaded_versions import LoadedVersions

    with HomeLock(home), create_store(home) as store:
        end_all_leases(store)  # of a process that died: only one process at a time works on a study
        engine = open_engine(store, config, seed=training_seed, say=say)
        add_initial(store, engine.files.name, engine.files.hash)
        yield StudyHome(store=store, config=config, versions=LoadedVersions(store, engine))


def know(home: StudyHome, names: Sequence[str]) -> None:
    """Make environments known to a home: from now on they are replayed and gated. What no skill is paid in them is not measured."""
    known = {row.name for row in list_environments(home.store)}
    for environment in home.config.environments(name for name in names if name not in known).values():
        register(home.store, environment.name, environment.threshold, environment.reward_low, environment.reward_high)


def play_live(home: StudyHome, name: str, tasks: int, occasion: str, training_seed: int) -> None:
    """Play live tasks of an environment with the version that serves, as the daemon's actor does; none twice on one occasion."""
    from perdure.agent.processes.actor import Actor, store_journal
    from perdure.learners.engines.serving_model import ServingModel

    store = home.store
    sql = "SELECT count(*) AS n FROM task WHERE stage = ? AND environment = ?"
    if not store.rows(sql, (occasion, name))[0]["n"]:
        seeds = [train_seed(training_seed, f"{name} {occasion}", n) for n in range(tasks)]
        add_tasks(store, name, seeds, home.config.play.members, "stream", occasion)
    model = ServingModel(store, home.versions.engine)
    Actor(store, home.config, lambda: not anything_to_play(store), store_journal(store)).run(model)


def learn(home: StudyHome, key: str, targets: Sequence[str], order: LearnOrder, keep: Collection[int] = ()) -> Job:
    """Carry out a learning job, or what is left of it, and give it, done. The weights after the updates in `keep` become versions.

    Raises `NothingLearned`, and whatever else stopped it.
    """
    from perdure.agent.processes.exit_codes import TRANSIENT, cause_of_error, one_line
    from perdure.agent.processes.job import carry_out
    from perdure.agent.processes.job_work import Work
    from perdure.agent.processes.pulse import Pulse

    store, clock = home.store, BootClock()
    job = get_job(store, add_job(store, key, targets, order))
    if job.state == "done":
        return job
    if job.state == "failed":
        raise NothingLearned(job.error or "")
    leased = lease_job(store, OWNER, TTL_S, clock, job.id)
    if leased is None:
        raise RuntimeFailure(f"job {job.id} of {store.home} cannot be run: {job.error or job.state}")
    job, lease = leased
    set_job_state(store, lease, "running")
    start = order.start or serving(store).name

    def keep_step(update: int, weights: Weights) -> None:
        if update in keep:
            _keep(home, _kept_name(job.id, job.attempt, update), start, targets, weights)

    work = Work(
        store=store,
        config=home.config,
        versions=home.versions,
        job=job,
        lease=lease,
        pulse=Pulse(store, OWNER),
        stop=never,
        keep_step=keep_step,
    )
    try:
        carry_out(work)
    except BaseException as error:  # also an interrupt gives the job back
        with suppress(LeaseLost, PerdureError):
            if isinstance(error, Exception) and cause_of_error(error) not in TRANSIENT:
                fail_job(store, lease, one_line(error))
            else:
                release_job(store, lease)
        if isinstance(error, Diverged) or str(error).startswith(NOTHING_TO_LEARN):
            raise NothingLearned(one_line(error)) from error
        raise
    return get_job(store, job.id)


def kept_versions(store: Store, job: Job) -> dict[int, Version]:
    """The versions of a job by update: those that were kept, and its candidate as that of its last update, which it is without checks."""
    found: dict[int, Version] = {}
    for version in reversed(list_versions(store)):
        if version.name.startswith(f"job{job.id}."):
            found[int(version.name.rpartition("-")[2])] = version  # of several attempts the last one counts
    if job.candidate is not None:
        found.setdefault(len(steps(store, job.id)), get_version(store, job.candidate))
    return found


def score_tasks(home: StudyHome, version: str, tasks: Mapping[str, int], seed_of: TaskSeed, root_seed: int) -> dict[str, TaskScores]:
    """The scores of a version's sampled answers, one to each of this many tasks of each environment.

    The answers are drawn from the seeds of the tasks, so a version that did not change scores the same.
    """
    environments = home.config.environments([name for name, number in tasks.items() if number])
    draws = [(name, seed_of(root_seed, name, r)) for name, number in tasks.items() for r in range(number)]
    engine = home.versions.engine
    home.versions.unpin()
    sampler = home.versions.pin(version)
    episodes = play(
        [
            Attempt(environment=environments[name], seed=seed, group=name, member=n, purpose="probe", lease=MEASURING, repeatable=True)
            for n, (name, seed) in enumerate(draws)
        ],
        engine.policy(sampler),
        engine.chat,
        sampler,
        _Forgetful(),
        temperature=home.config.play.temperature,
        width=WIDTH,
        context_limit=engine.context_limit,
        opponents=home.versions.opponents(VersionRef(version).name),
    )
    scores: dict[str, TaskScores] = {name: {} for name in tasks}
    for (name, seed), episode in zip(draws, episodes, strict=True):
        if episode.state == "completed":
            scores[name][seed] = episode.score
    return scores


class _Forgetful:
    """A journal that keeps nothing."""

    def __init__(self) -> None:
        self._begun = 0

    def start(self, plans: Sequence[EpisodePlan]) -> list[int]:
        self._begun += len(plans)
        return list(range(self._begun - len(plans) + 1, self._begun + 1))

    def turns(self, entries: Sequence[tuple[int, int, Turn]]) -> None:
        pass

    def finish(self, endings: Sequence[Ending]) -> None:
        pass


def _kept_name(job: int, attempt: int, update: int) -> str:
    return f"job{job}.{attempt}-{update}"


def _keep(home: StudyHome, name: str, parent: str, targets: Sequence[str], weights: Weights) -> None:
    from perdure.learners.weights.adapters import write_version, write_weights

    store, files = home.store, home.versions.engine.files
    path, digest = write_version(store.home, name, files, lambda folder: write_weights(folder, weights, files))
    add_candidate(store, None, name, parent=get_version(store, parent).name, hash=digest, path=path, targets=targets, job=None)
