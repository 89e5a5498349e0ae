"""A home with a tiny model in which jobs learn, without a daemon around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.fakes import ListJournal
from tests.learners.conftest import engine_of, options_of, trainee_of
from tests.results import learn_result

from perdure.envs.playing import Attempt
from perdure.envs.registry import load_here as load
from perdure.envs.rollout import never, nothing, play
from perdure.envs.seeds import dev_seed, train_seed
from perdure.learners.checkpoint import Progress
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.engines.transformers_engine import TransformersEngine
from perdure.learners.learning_job import Interrupted, JobEnvironments, JobRun, LearningJob
from perdure.learners.panel.panel_items import Skill
from perdure.learners.panel.panel_pass import PanelWork
from perdure.learners.reward_source import from_environment
from perdure.learners.run_learning import run_learning
from perdure.learners.selection.panel_hold import PanelHold
from perdure.learners.trainees.trainee import Trainee
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory import environments, jobs, versions
from perdure.memory.contracts.orders import Job, LearnOrder
from perdure.memory.contracts.results import Update
from perdure.memory.leases import BootClock
from perdure.memory.records import Lease, Version
from perdure.memory.store import Store
from perdure.memory.tasks import add_tasks, finish_task, lease_tasks
from perdure.memory.trajectories.journal import StoreJournal

EASY = "py:tests.learners.easy:Starts"
SETTINGS = {"updates": 18, "prompts": 8, "lr": 0.01, "rank": 8, "alpha": 16, "check_every": 0}
"""Without checks, which have tests of their own (`selection/`), a job makes all its updates and plays only to learn."""


class Learner:
    """A home with a tiny model that serves, and jobs that learn in it."""

    def __init__(self, store: Store, files: ModelFiles, *, seed: int = 0) -> None:
        self.store = store
        self.files = files
        self.engine: TransformersEngine = engine_of(files, seed=seed)
        versions.add_initial(store, files.name, files.hash)
        environments.register(store, EASY)

    def leased(self, target: str | None, learner: str = "grpo", *, start: str | None = None, **settings: Any) -> tuple[Job, Lease]:
        if target is not None:
            environments.register(self.store, target)
        return self.queued(target, learner, start=start, **settings)

    def queued(self, target: str | None, learner: str = "grpo", *, start: str | None = None, **settings: Any) -> tuple[Job, Lease]:
        number = len(jobs.list_jobs(self.store))
        order = LearnOrder(learner=learner, options=settings, start=start)
        jobs.add_job(self.store, f"job {number}", [] if target is None else [target], order)
        found = jobs.lease_job(self.store, "me", 60.0, BootClock())
        assert found is not None
        return found

    def learn(
        self,
        target: str | None = EASY,
        learner: str = "grpo",
        *,
        stop: Callable[[], bool] = never,
        start: str | None = None,
        hold: tuple[Skill, ...] = (),
        **settings: Any,
    ) -> Version:
        """`hold`: the skills of the capability panel that the candidate is to hold."""
        job, lease = self.leased(target, learner, start=start, **{**SETTINGS, **settings})
        return self.run(job, lease, stop, hold)

    @property
    def versions(self) -> LoadedVersions:
        return LoadedVersions(self.store, self.engine)

    def interrupted(
        self, target: str, learner: str, *, after: int, meanwhile: Callable[[], None] = lambda: None, **settings: Any
    ) -> Version:
        """The same, stopped after so many updates and taken up again by another process, after what happens `meanwhile`."""
        job, lease = self.leased(target, learner, **{**SETTINGS, **settings})
        with pytest.raises(Interrupted, match=f"after {after} updates"):
            self.run(job, lease, lambda: len(self.steps(job.id)) >= after)
        jobs.release_job(self.store, lease)
        meanwhile()
        self.engine = engine_of(self.files)
        found = jobs.lease_job(self.store, "another", 60.0, BootClock())
        assert found is not None
        assert (found[0].id, found[1].attempt) == (job.id, 2)
        return self.run(*found, never)

    def run(self, job: Job, lease: Lease, stop: Callable[[], bool], skills: tuple[Skill, ...] = ()) -> Version:
        run = JobRun(store=self.store, lease=lease, journal=StoreJournal(self.store, BootClock()), stop=stop)
        scoring = PanelWork(run=run, versions=self.versions, say=lambda line: None)
        hold = PanelHold(scoring=scoring, skills=skills) if skills else None
        version = run_learning(run, job, self.versions, "cpu", load, hold)
        jobs.finish_job(self.store, lease, learn_result(None, version=version.name), version.name)
        return version

    def job(
        self,
        targets: Sequence[str],
        old: Sequence[str] = (),
        *,
        trainee: Trainee | None = None,
        with_teacher: bool = False,
        stop: Callable[[], bool] = never,
        each_round: Callable[[], None] = nothing,
        **options: Any,
    ) -> LearningJob:
        """A job at step 0, with its weights in the engine. Its learner is the first that reads all the options; without checks."""
        for name in {*targets, *old}:
            environments.register(self.store, name)
        _, lease = self.queued(targets[0])
        made = options_of(**{"check_every": 0, **options})
        job = LearningJob(
            run=JobRun(store=self.store, lease=lease, journal=StoreJournal(self.store, BootClock()), stop=stop, each_round=each_round),
            options=made,
            engine=self.engine,
            trainee=trainee or trainee_of(self.files, with_teacher=with_teacher, **options),
            environments=JobEnvironments(targets=[load(name) for name in targets], old=[load(name) for name in old]),
            progress=Progress(start="v0", serving="v0", updates=made.common.updates),
            rewarder=from_environment(self.store),
        )
        self.engine.load(job.sampler, job.trainee.weights())
        return job

    def play_live(self, target: str, tasks: int) -> None:
        """Play tasks of the stream to their end with the version that serves, eight episodes each."""
        environments.register(self.store, target)
        sampler = LoadedVersions(self.store, self.engine).load(versions.serving(self.store).name)
        made, attempts = load(target), []
        add_tasks(self.store, target, [train_seed(5, target, r) for r in range(tasks)], 8, "person")
        leased = lease_tasks(self.store, "me", tasks, 600.0, BootClock())
        for task, lease in leased:
            attempts += [
                Attempt(environment=made, seed=task.seed, group=f"task-{task.id}", member=n, purpose="live", lease=lease) for n in range(8)
            ]
        journal = StoreJournal(self.store, BootClock())
        play(
            attempts,
            self.engine.policy(sampler),
            self.engine.chat,
            sampler,
            journal,
            temperature=1.0,
            width=64,
            context_limit=self.engine.context_limit,
        )
        for _, lease in leased:
            finish_task(self.store, lease)

    def steps(self, job: int) -> list[Update]:
        return [step.update for step in jobs.steps(self.store, job)]

    def success(self, version: str, environment: str, episodes: int = 48) -> float:
        """On dev seeds, which learning never plays, with an engine that has read the version from the disk."""
        engine = engine_of(self.files, seed=9)
        sampler = LoadedVersions(self.store, engine).load(version)
        made, lease = load(environment), Lease(subject=1, owner="test", attempt=1)
        attempts = [
            Attempt(environment=made, seed=dev_seed(0, environment, r), group="g", member=r, purpose="probe", lease=lease)
            for r in range(episodes)
        ]
        found = play(
            attempts,
            engine.policy(sampler),
            engine.chat,
            sampler,
            ListJournal(),
            temperature=1.0,
            width=64,
            context_limit=engine.context_limit,
        )
        return sum(episode.success for episode in found) / episodes

    def nothing_was_left(self) -> bool:
        return [v.name for v in versions.list_versions(self.store)] == ["v0"] and not list((self.store.home / "versions").iterdir())
