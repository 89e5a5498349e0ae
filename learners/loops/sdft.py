"""SDFT, self-distillation fine-tuning: the model teaches itself (Shenfeld et al. 2026).

The student answers on-policy and follows the teacher's distribution at each token; the teacher is the same model, which sees the task
solved before. No reward is needed, so tasks that are never solved teach too. The teacher is frozen at the start, or follows the student
slowly; a fast one was seen to collapse. `direction=reverse` is KL(student || teacher), `forward` is KL(teacher || student), both over the
whole vocabulary, on the student's answers. Demonstrations are the environment's own right answers; episodes too long for the context after
a demonstration are skipped. Left out: demonstrations from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from perdure.learners.batches import Group, Lesson, Turns, lesson, replay_lessons, sequences_of
from perdure.learners.gradients import ExtraLoss, ProjectGradient, per_token
from perdure.learners.loops.hints import check_oracle, demonstrated, first_prompt, solved, with_prompt
from perdure.learners.losses import kl_divergence
from perdure.learners.options import LearnOptions
from perdure.learners.trainee import Trainee
from perdure.learners.workbench import NO_EXTRA_LOSSES, Workbench
from perdure.memory.errors import RuntimeFailure


def sdft(
    workbench: Workbench, extra_losses: Mapping[str, ExtraLoss] = NO_EXTRA_LOSSES, project_gradient: ProjectGradient | None = None
) -> None:
    """Learn from fresh answers, each pulled towards the teacher's distribution.

    Raises `InputError` if a target has no oracle, or if the oracle's answers leave no room for the student's, `RuntimeFailure` if the
    oracle solves none of the tasks.
    """
    options = workbench.options
    for target in workbench.targets:
        check_oracle(target, "sdft")
    while workbench.step < options.updates:
        sampled = workbench.sample(options.prompts)
        shown = teaching(workbench, sampled.target)
        taught = {student: turns for student, turns in shown.items() if workbench.fits(sequences_of(turns))}
        workbench.learned |= bool(taught)
        if not workbench.learned:
            for student, turns in shown.items():
                workbench.check_length(f"episode {student.episode} after the solved task", sequences_of(turns))
            raise RuntimeFailure(
                f"nothing to learn from in {workbench.names}: its oracle solved none of the {len(sampled.target)} tasks that were "
                "completed; see `perdure env check`"
            )
        lessons = [*taught, *replay_lessons(sampled.old, options), *workbench.stored()]
        losses = {"distillation": distillation(taught, options), **extra_losses}
        workbench.update(lessons, sampled, on_policy=True, extra_losses=losses, project_gradient=project_gradient)


def teaching(workbench: Workbench, groups: Sequence[Group]) -> dict[Lesson, Turns]:
    """A lesson for each episode of these groups, and its turns under the teacher's prompt; the lesson's only own weight is that of KL."""
    environments = {environment.name: environment for environment in workbench.targets}
    taught: dict[Lesson, Turns] = {}
    for group in groups:
        environment = environments[group[0].environment]
        played = solved(environment, group[0].seed)
        if played is None:
            continue
        shown = demonstrated(environment, played.exchanges)
        for episode in group:
            student = lesson(episode, kl=workbench.options.kl)
            taught[student] = with_prompt(student.turns, first_prompt(workbench, shown, episode))
    return taught


def distillation(taught: Mapping[Lesson, Turns], options: LearnOptions) -> ExtraLoss:
    """Mean KL between student and teacher over the action tokens of the batch, by their weights."""

    def loss(trainee: Trainee, lessons: Sequence[Lesson], weights: Sequence[float]) -> Tensor:
        students = [student for student in lessons if student in taught]
        if not students:
            return next(iter(trainee.parameters)).new_zeros(())
        student_AV = trainee.distributions([turn for student in students for turn in student.turns], options.temperature)
        teacher_AV = trainee.distributions([turn for student in students for turn in taught[student]], options.temperature, "teacher")
        reverse = options.direction == "reverse"
        kl_A = kl_divergence(student_AV, teacher_AV) if reverse else kl_divergence(teacher_AV, student_AV)
        student_weights = [weight for student, weight in zip(lessons, weights, strict=True) if student in taught]
        return (per_token(students, student_weights, kl_A) * kl_A).sum()

    return loss
