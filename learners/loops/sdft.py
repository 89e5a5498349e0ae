"""SDFT, self-distillation fine-tuning: the model teaches itself (Shenfeld et al. 2026).

The student answers on-policy and follows the teacher's distribution at each token; the teacher is the same model, which sees the task
solved before. No reward is needed, so tasks that are never solved teach too. The teacher is frozen at the start, or follows the student
slowly; a fast one was seen to collapse. `direction=reverse` is KL(student || teacher), `forward` is KL(teacher || student), both over the
whole vocabulary, on the student's answers (`distillation.py`). Demonstrations are the environment's own right answers; episodes too long
for the context after a demonstration are skipped. Left out: demonstrations from a file.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.learners.batches import Group, Lesson, Turns, lesson, sequences_of
from perdure.learners.learning_job import LearningJob, check_length, fits
from perdure.learners.loops.hints import check_oracle, demonstrated, retold, solved
from perdure.learners.loops.nothing_to_learn import nothing_to_learn
from perdure.learners.old_lessons import old_lessons
from perdure.learners.options import SdftOptions
from perdure.learners.sampling.batch_sampling import sample
from perdure.learners.selection.checking import check_and_go_on
from perdure.learners.updating import update


def sdft(job: LearningJob) -> None:
    """Learn from fresh answers, each pulled towards the teacher's distribution.

    Raises `InputError` if a target has no oracle, or if the oracle's answers leave no room for the student's, `RuntimeFailure` if the
    oracle solves none of the tasks.
    """
    options, own = job.options, job.options.of(SdftOptions)
    for target in job.environments.targets:
        check_oracle(target, "sdft")
    while check_and_go_on(job):
        if own.teacher == "slow" and job.progress.step:
            job.trainee.follow(own.teacher_rate)
        sampled = sample(job, options.common.prompts)
        shown = teaching(job, sampled.target)
        taught = {student: turns for student, turns in shown.items() if fits(job, sequences_of(turns))}
        job.progress.learned |= bool(taught)
        if not job.progress.learned:
            for student, turns in shown.items():
                check_length(job, f"episode {student.episode} after the solved task", sequences_of(turns))
            solved_none = f"its oracle solved none of the {len(sampled.target)} tasks that were completed; see `perdure env check`"
            raise nothing_to_learn(job, solved_none)
        lessons = [*taught, *old_lessons(job, sampled)]
        update(job, lessons, sampled, signal=float(bool(taught)), taught=taught)


def teaching(job: LearningJob, groups: Sequence[Group]) -> dict[Lesson, Turns]:
    """A lesson for each episode of these groups, and its turns under the teacher's prompt; the lesson's only own weight is that of KL."""
    environments = {environment.name: environment for environment in job.environments.targets}
    taught: dict[Lesson, Turns] = {}
    for group in groups:
        environment = environments[group[0].environment]
        played = solved(environment, group[0].seed)
        if played is None:
            continue
        shown = demonstrated(environment, played.exchanges)
        for episode in group:
            student = lesson(episode, kl=job.options.loss.kl)
            taught[student] = retold(job, shown, episode)
    return taught
