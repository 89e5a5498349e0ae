"""REINFORCE, on-policy and without a baseline: every token is weighted by the score of its episode (Williams 1992).

The paper behind Perdure uses this name for on-policy data without GRPO's advantage (Chen et al. 2025). Scores are in [0, 1]: with rewards
of 0 and 1 only successes teach, as in iterative SFT, but each updates the policy that sampled it. Without `kl`, episodes of score 0 cost no
forward pass and are not in the token mean. The rate is proportional to the share of groups with a score above 0; if there is none, there is
no step. Left out: any baseline; grpo has one.
"""

from __future__ import annotations

from perdure.learners.batches import lesson, taught_share
from perdure.learners.learning_job import LearningJob
from perdure.learners.loops.nothing_to_learn import require_signal
from perdure.learners.old_lessons import with_other_lessons
from perdure.learners.sampling.batch_environments import target_groups
from perdure.learners.sampling.batch_sampling import sample
from perdure.learners.selection.checking import check_and_go_on
from perdure.learners.updating import update


def reinforce(job: LearningJob) -> None:
    """Learn from fresh episodes, one batch for each update.

    Raises `RuntimeFailure` if there is nothing to learn from: no episode of the targets was rewarded.
    """
    options = job.options
    while check_and_go_on(job):
        sampled = sample(job, options.common.prompts)
        rewarded = [episode for group in sampled.target for episode in group if episode.score]
        lessons = [lesson(episode, advantage=episode.score, kl=options.loss.kl) for episode in rewarded]
        job.progress.learned |= bool(lessons)
        signal = taught_share(sampled.target, lessons, target_groups(job, options.common.prompts))
        update(job, with_other_lessons(job, lessons, sampled), sampled, signal=signal)
        require_signal(
            job,
            f"no episode was rewarded in {job.progress.step} updates; make its tasks easier, add shots=3 to its name, or learn from "
            "demonstrations (sft)",
        )
