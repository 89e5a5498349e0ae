"""SDFT: the model teaches itself. The teacher is the same model after it has seen the task solved; the student answers without, on-policy,
and follows the teacher's distribution token by token (Shenfeld et al. 2026, self-distillation fine-tuning).

No reward is needed, so tasks that nobody wins teach as well. The teacher is frozen at the start, or follows the student slowly: a fast one
was seen to collapse. `direction=reverse` is KL(student || teacher), `forward` is KL(teacher || student), both over the whole vocabulary, on
the student's own answers. Demonstrations are the environment's own right answers; episodes that are too long to be read after one are left
out. Left out as well: demonstrations from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from perdure.learners.batches import Group, Lesson, Turns, lesson, replayed, sequences_of
from perdure.learners.gradients import ExtraLoss, ProjectGradient
from perdure.learners.loops.hints import check_oracle, demonstrated, first_prompt, solved, with_prompt
from perdure.learners.losses import kl_divergence
from perdure.learners.options import LearnOptions
from perdure.learners.trainee import Trainee
from perdure.learners.workbench import NONE, Workbench
from perdure.memory.errors import RuntimeFailure


def sdft(workbench: Workbench, extra_losses: Mapping[str, ExtraLoss] = NONE, project_gradient: ProjectGradient | None = None) -> None:
    """Raises `InputError` where a target has no oracle, or one whose answers leave no room for the student's, `RuntimeFailure` where its
    oracle solves none of the tasks."""
    options = workbench.options
    for target in workbench.targets:
        check_oracle(target, "sdft")
    while workbench.step < options.updates:
        sampled = workbench.sample(options.prompts)
        shown = teaching(workbench, sampled.target)
        taught = {one: turns for one, turns in shown.items() if workbench.fits(sequences_of(turns))}
        workbench.learned |= bool(taught)
        if not workbench.learned:
            for one, turns in shown.items():
                workbench.check_length(f"episode {one.episode} after the solved task", sequences_of(turns))
            raise RuntimeFailure(
                f"nothing to learn from in {workbench.names}: its oracle solved none of the {len(sampled.target)} tasks that were "
                "completed; see `perdure env check`"
            )
        lessons = [*taught, *replayed(sampled.old, options), *workbench.stored()]
        losses = {"distillation": distillation(taught, options), **extra_losses}
        workbench.update(lessons, sampled, on_policy=True, extra_losses=losses, project_gradient=project_gradient)


def teaching(workbench: Workbench, groups: Sequence[Group]) -> dict[Lesson, Turns]:
    """For each episode of these groups, as a lesson of no weight of its own, its answers under the prompt that the teacher sees."""
    environments = {environment.name: environment for environment in workbench.targets}
    found: dict[Lesson, Turns] = {}
    for group in groups:
        environment = environments[group[0].environment]
        played = solved(environment, group[0].seed)
        if played is None:
            continue
        shown = demonstrated(environment, played.exchanges)
        for episode in group:
            one = lesson(episode, kl=workbench.options.kl)
            found[one] = with_prompt(one.turns, first_prompt(workbench, shown, episode))
    return found


def distillation(taught: Mapping[Lesson, Turns], options: LearnOptions) -> ExtraLoss:
    """Mean KL between student and teacher over the action tokens of the batch."""

    def loss(trainee: Trainee, lessons: Sequence[Lesson], share: float) -> Tensor:
        mine = [one for one in lessons if one in taught]
        if not mine:
            return next(iter(trainee.parameters)).new_zeros(())
        student_AV = trainee.distributions([turn for one in mine for turn in one.turns], options.temperature)
        teacher_AV = trainee.distributions([turn for one in mine for turn in taught[one]], options.temperature, "teacher")
        reverse = options.direction == "reverse"
        kl_A = kl_divergence(student_AV, teacher_AV) if reverse else kl_divergence(teacher_AV, student_AV)
        return kl_A.sum() * share / sum(one.tokens for one in lessons)

    return loss
