"""GRPO and its variants, on-policy: fresh groups for every update, one optimiser step on each batch unless `passes` is larger.

The default, `variant=centred`: A = R - mean of the other members of the group, with R the score in [0, 1] (Shao et al. 2024, without the
division by the standard deviation: Liu et al. 2025; without the episode in its own mean: Ahmadian et al. 2024), a mean over the tokens of
each environment, and truncated importance sampling for differences between sampler and learner. The others are in `losses.py:VARIANTS`.
With one pass, the ratio of new to old policy is 1 and nothing is clipped. The rate is proportional to the share of mixed groups; if none is
mixed, there is no step. Left out: a value function, a KL penalty inside the reward, DAPO's penalty on answers that are nearly too long.
"""

from __future__ import annotations

from perdure.learners.batches import policy_gradient_lessons, taught_share
from perdure.learners.learning_job import LearningJob
from perdure.learners.loops.nothing_to_learn import require_signal
from perdure.learners.losses import VARIANTS
from perdure.learners.old_lessons import with_other_lessons
from perdure.learners.options import GrpoOptions
from perdure.learners.sampling.batch_environments import target_groups
from perdure.learners.sampling.batch_sampling import refilled, sample
from perdure.learners.selection.checking import check_and_go_on
from perdure.learners.updating import update


def grpo(job: LearningJob) -> None:
    """Learn from fresh groups, one batch for each update.

    Raises `RuntimeFailure` if there is nothing to learn from: every group of the targets had equal rewards.
    """
    options, own = job.options, job.options.of(GrpoOptions)
    advantages, mask_truncated = VARIANTS[own.variant].advantages, options.loss.mask_truncated
    while check_and_go_on(job):
        sampled = sample(job, options.common.prompts)
        sampled = refilled(job, sampled, options.common.prompts, own.refill)
        lessons = policy_gradient_lessons(sampled.target, options.loss.kl, advantages, mask_truncated=mask_truncated)
        job.progress.learned |= bool(lessons)
        signal = taught_share(sampled.target, lessons, target_groups(job, options.common.prompts))
        update(job, with_other_lessons(job, lessons, sampled), sampled, signal=signal)
        require_signal(
            job,
            f"in {job.progress.step} updates all members of each group had equal rewards (success "
            f"{job.tally.updates[-1].groups.success or 0:.2f}); make its tasks easier, add shots=3 to its name, learn from demonstrations "
            "(sft) or, if it has an oracle, from hints (iterative-sft with hints=true), or choose another target",
        )
