"""GRPO and its variants, on-policy: fresh groups for every update, one optimiser step on each batch unless `passes` is larger.

The default, `variant=centred`: A = R - mean of the other members of the group, with R the score in [0, 1] (Shao et al. 2024, without the
division by the standard deviation: Liu et al. 2025; without the episode in its own mean: Ahmadian et al. 2024), a mean over the tokens of
each environment, and truncated importance sampling for differences between sampler and learner. The others are in `losses.py:VARIANTS`.
With one pass, the ratio of new to old policy is 1 and nothing is clipped. Left out: a value function, a KL penalty inside the reward,
DAPO's penalty on answers that are nearly too long.
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.learners.batches import kl_only, policy_gradient_lessons, replay_lessons
from perdure.learners.gradients import ExtraLoss, ProjectGradient
from perdure.learners.losses import VARIANTS
from perdure.learners.workbench import NO_EXTRA_LOSSES, Workbench
from perdure.memory.errors import RuntimeFailure

UPDATES_WITHOUT_SIGNAL = 4
"""A job fails if its first 4 updates saw no target group with unequal rewards (reinforce: no reward)."""


def grpo(
    workbench: Workbench, extra_losses: Mapping[str, ExtraLoss] = NO_EXTRA_LOSSES, project_gradient: ProjectGradient | None = None
) -> None:
    """Learn from fresh groups, one batch for each update.

    Raises `RuntimeFailure` if there is nothing to learn from: every group of the targets had equal rewards.
    """
    options = workbench.options
    advantages = VARIANTS[options.variant].advantages
    while workbench.step < options.updates:
        sampled = workbench.sample(options.prompts, options.refill)
        lessons = policy_gradient_lessons(sampled.target, options.kl, advantages, mask_truncated=options.mask_truncated)
        workbench.learned |= bool(lessons)
        lessons += kl_only(sampled.target, lessons, options.kl)
        lessons += replay_lessons(sampled.old, options)
        lessons += workbench.stored()
        workbench.update(lessons, sampled, on_policy=True, extra_losses=extra_losses, project_gradient=project_gradient)
        if not workbench.learned and workbench.step >= min(UPDATES_WITHOUT_SIGNAL, options.updates):
            raise RuntimeFailure(
                f"nothing to learn from in {workbench.names}: in {workbench.step} updates all members of each group had equal rewards "
                f"(success {workbench.updates[-1].groups.success or 0:.2f}); make its tasks easier, add shots=3 to its name, learn from "
                "demonstrations (sft), or choose another target"
            )
