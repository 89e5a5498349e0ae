"""A home that a cell of a study works in: the real store, actor and model, in this process and on one engine.

What is learned and played live is in the home as in any other, so that a cell that was cut off continues. What a study measures is not: the
episodes of its probes are scored and forgotten. Left out: its jobs (`study_jobs.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.agent.config import Config
from perdure.agent.home import HomeLock
from perdure.agent.studies.grid.table_rows import TaskScores
from perdure.envs.playing import Attempt
from perdure.envs.rollout import play
from perdure.envs.seeds import dev_seed, probe_seed, train_seed
from perdure.memory.environments import list_environments, register
from perdure.memory.jobs import release_all
from perdure.memory.records import Ending, EpisodePlan, Lease, Turn
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, anything_to_play
from perdure.memory.versions import add_initial

if TYPE_CHECKING:
    from perdure.learners.engines.loaded_versions import LoadedVersions

OWNER = f"study:{os.getpid()}"
WIDTH = 128
"""Episodes that are measured at once."""
MEASURING = Lease(subject=0, owner=OWNER, attempt=1)
"""Of episodes that are not kept."""

Say = Callable[[str], None]
TaskSeed = Callable[[int, str, int], int]
"""The seed of draw r of an environment."""
DEV: TaskSeed = dev_seed
TEST: TaskSeed = probe_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyHome:
    """An open home. Use `open_study_home`."""

    store: Store
    config: Config
    versions: LoadedVersions


@contextmanager
def removed_if_it_fails(folder: Path) -> Iterator[None]:
    """Remove the folder of a cell if an error inside is of the cell's own making, so that the next try begins anew.

    After a full disk, an interrupt or a kill it stays, and the next try continues.
    """
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
        release_all(store)  # of a process that was ended, as Ctrl-C does: its work goes on, and no attempt is spent
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
        opponents=home.versions.opponents(version),
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
