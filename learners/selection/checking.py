"""Checks of a learning job: dev seeds played with the weights of a step, and the weights of the best step kept.

`best_step.py` says what a check is for, and decides. A learner's loop asks `check_and_go_on` before each update. The episodes are in the
store like all others, with the purpose `probe`, and their scores are read from there: a resumed attempt plays only those that are missing,
and chooses the same step. Answers are drawn from the seeds too (`Attempt.repeatable`), so a policy that did not change scores the same.

Scores are those of the environment, which a gate compares too, whatever `rewards` the job learns from.
"""

from __future__ import annotations

from perdure.envs.playing import Attempt
from perdure.envs.seeds import check_seed
from perdure.learners.learning_job import LearningJob
from perdure.learners.options import IterativeSftOptions
from perdure.learners.sampling.batch_sampling import play_episodes
from perdure.learners.sampling.live_batches import used_up
from perdure.learners.selection.best_step import (
    StepCheck,
    best_step,
    early_end,
    is_better_than_start,
    old_episodes,
    selection,
    unchecked,
)
from perdure.learners.selection.kept_step import KeptStep, read_kept_step, write_kept_step
from perdure.memory.contracts.results import Selection
from perdure.memory.errors import Diverged, RuntimeFailure
from perdure.memory.jobs import steps
from perdure.memory.processes import record_event
from perdure.memory.trajectories.episodes import scores_of_groups


def check_and_go_on(job: LearningJob) -> bool:
    """Check the current step if it is due, and say whether there is a further update to make: the condition of every learner's loop.

    Raises `Interrupted`; what was played by then is not played again.
    """
    progress = job.progress
    if is_due(job, progress.step) and job.tally.checked_step != progress.step:
        _check(job)
        job.tally.checked_step = progress.step
    if progress.step == progress.updates and job.tally.ended_early is None and (reason := used_up(job)):
        _end_early(job, reason)
    return progress.step < progress.updates and job.tally.ended_early is None


def choose_step(job: LearningJob, failure: Diverged | None = None) -> Selection:
    """Choose the step that becomes the candidate, and give its weights to the trainee.

    After a failure only a step that is better than the start is chosen; if there is none, the failure is raised.
    """
    checks = read_checks(job)
    if failure is not None and not is_better_than_start(checks):
        raise failure
    if failure is not None:
        record_event(job.run.store, "ended early", f"job {job.id}", str(failure))
    if len(checks) < 2:
        return unchecked(job.progress.step, job.tally.ended_early)
    chosen = selection(checks, job.tally.ended_early if failure is None else str(failure))
    if chosen.step == job.progress.step and failure is None:
        return chosen
    try:
        best = read_kept_step(job.run.store.home, job.id)
        if best is None or (best.step, best.attempt) != (chosen.step, _attempts_of_steps(job)[chosen.step]):
            raise RuntimeFailure(f"the weights of step {chosen.step}, which was the best, are missing")
    except RuntimeFailure as error:
        record_event(job.run.store, "damaged", f"job {job.id}", f"{error}: its last step is the candidate")
        if failure is not None:
            raise failure from error
        return unchecked(job.progress.step, job.tally.ended_early)
    job.trainee.put_parameters(best.parameters)
    return chosen


def is_due(job: LearningJob, step: int) -> bool:
    """Whether a step is checked: the start, every few updates, and the last; if rounds begin anew, the end of each round."""
    every, updates, rounds = job.options.checks.every, job.progress.updates, job.options.of(IterativeSftOptions)
    if every == 0:
        return False
    if step in (0, updates):
        return True
    return rounds.round_at(step - 1, updates)[1] == step if rounds.restart else step % every == 0


def read_checks(job: LearningJob) -> list[StepCheck]:
    """The complete checks of the job so far, in order."""
    attempts, episodes = _attempts_of_steps(job), job.progress.checked
    due = [step for step in range(job.progress.step + 1) if is_due(job, step)] if episodes else []
    groups = {(step, name): _group(job, attempts[step], step, name) for step in due for name in episodes}
    scores = scores_of_groups(job.run.store, job.id, list(groups.values()))
    targets = {environment.name for environment in job.environments.targets}
    checks = []
    for step in due:
        played = {name: scores[groups[step, name]] for name in episodes}
        if all(len(played[name]) == number for name, number in episodes.items()):
            in_order = {name: tuple(played[name][r] for r in range(number)) for name, number in episodes.items()}
            checks.append(
                StepCheck(
                    step=step,
                    targets={name: of for name, of in in_order.items() if name in targets},
                    old={name: of for name, of in in_order.items() if name not in targets},
                )
            )
    return checks


def _check(job: LearningJob) -> None:
    """Play the check of the current step; keep the weights if they are the best so far; note if the job should end early."""
    progress = job.progress
    if progress.step == 0:
        progress.checked = _episodes_of_each(job)
    _play_missing(job)
    if progress.step in (0, progress.updates):
        return
    checks = read_checks(job)
    if reason := early_end(checks):
        _end_early(job, reason)
    elif best_step(checks).step == progress.step:
        best = KeptStep(step=progress.step, attempt=_attempts_of_steps(job)[progress.step], parameters=job.trainee.state().parameters)
        write_kept_step(job.run.store.home, job.id, best)


def _end_early(job: LearningJob, reason: str) -> None:
    job.tally.ended_early = reason
    record_event(job.run.store, "ended early", f"job {job.id}", reason)


def _play_missing(job: LearningJob) -> None:
    """Play the episodes of the current step's check that the store does not have."""
    step, episodes = job.progress.step, job.progress.checked
    attempt = _attempts_of_steps(job)[step]
    groups = {name: _group(job, attempt, step, name) for name in episodes}
    scores = scores_of_groups(job.run.store, job.id, list(groups.values()))
    attempts = [
        Attempt(
            environment=environment,
            seed=check_seed(job.options.common.seed, job.id, environment.name, r),
            group=groups[environment.name],
            member=r,
            purpose="probe",
            lease=job.run.lease,
            repeatable=True,
        )
        for environment in (*job.environments.targets, *job.environments.old)
        for r in range(episodes.get(environment.name, 0))
        if r not in scores[groups[environment.name]]
    ]
    if not attempts:
        return
    play_episodes(job, attempts)


def _episodes_of_each(job: LearningJob) -> dict[str, int]:
    """How many episodes of each environment a check plays: fixed at the start, also if others are registered later."""
    episodes, old = job.options.checks.episodes, job.environments.old
    each = old_episodes(episodes, len(old))
    return {target.name: episodes for target in job.environments.targets} | {environment.name: each for environment in old}


def _attempts_of_steps(job: LearningJob) -> dict[int, int]:
    """Which attempt of the job made each of its steps. The start is the same in all."""
    return {0: 0, **{step.n: step.attempt for step in steps(job.run.store, job.id)}}


def _group(job: LearningJob, attempt: int, step: int, environment: str) -> str:
    """The name of the episodes of one check in one environment. Another attempt that makes the same step has other weights."""
    of = f".{attempt}-check-{step}" if step else f"-check-of-{job.progress.start}"
    return f"job-{job.id}{of}-{environment}"
