"""REINFORCE, on-policy and without a baseline: every token is weighted by the score of its episode, its return between
the ends of the stated range (Williams 1992).

The paper behind Perdure uses this name for on-policy data without GRPO's advantage (Chen et al. 2025). With rewards of 0 and 1 only
successes teach, as in iterative SFT, but each updates the policy that sampled it. Without `kl`, episodes of score 0 cost no forward pass
and are not in the token mean. Left out: any baseline; grpo has one.
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.learners.batches import kl_only, lesson, replay_lessons
from perdure.learners.gradients import ExtraLoss, ProjectGradient
from perdure.learners.loops.grpo import UPDATES_WITHOUT_SIGNAL
from perdure.learners.workbench import NO_EXTRA_LOSSES, Workbench
from perdure.memory.errors import RuntimeFailure


def reinforce(
    workbench: Workbench, extra_losses: Mapping[str, ExtraLoss] = NO_EXTRA_LOSSES, project_gradient: ProjectGradient | None = None
) -> None:
    """Learn from fresh episodes, one batch for each update.

    Raises `RuntimeFailure` if there is nothing to learn from: no episode of the targets was rewarded.
    """
    options = workbench.options
    while workbench.step < options.updates:
        sampled = workbench.sample(options.prompts)
        rewarded = [episode for group in sampled.target for episode in group if episode.score]
        lessons = [lesson(episode, advantage=episode.score, kl=options.kl) for episode in rewarded]
        workbench.learned |= bool(lessons)
        lessons += kl_only(sampled.target, lessons, options.kl)
        lessons += replay_lessons(sampled.old, options)
        lessons += workbench.stored()
        workbench.update(lessons, sampled, on_policy=True, extra_losses=extra_losses, project_gradient=project_gradient)
        if not workbench.learned and workbench.step >= min(UPDATES_WITHOUT_SIGNAL, options.updates):
            raise RuntimeFailure(
                f"nothing to learn from in {workbench.names}: no episode was rewarded in {workbench.step} updates; make its tasks easier, "
                "add shots=3 to its name, or learn from demonstrations (sft)"
            )
