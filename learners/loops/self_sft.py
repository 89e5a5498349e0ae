"""Self-SFT: imitates, for several epochs, the start's own successes, sampled once before the first update.

The most off-policy of the learners that use the model's own answers; it forgets more than iterative SFT (Chen et al. 2025), and is meant
for comparison. Replay is on-policy: old environments are played with the current weights.
"""

from __future__ import annotations

from perdure.learners.batches import imitation_lessons
from perdure.learners.epochs import imitation_epochs, per_task, target_episodes
from perdure.learners.learning_job import LearningJob
from perdure.learners.loops.nothing_to_learn import nothing_to_learn
from perdure.learners.options import SelfSftOptions
from perdure.learners.sampling.batch_sampling import sample_start


def self_sft(job: LearningJob) -> None:
    """Imitate the start's own successes.

    Raises `RuntimeFailure` if the start succeeds in none of the sampled tasks.
    """
    own = job.options.of(SelfSftOptions)
    start = sample_start(job, target_episodes(job))
    lessons = imitation_lessons(per_task(start.target, own.per_task), 1.0, job.options.loss.kl)
    if not lessons:
        raise nothing_to_learn(
            job,
            f"the start succeeded in none of {len(start.target)} tasks; make them easier, add shots=3 to its name, or learn from "
            "demonstrations (sft)",
        )
    imitation_epochs(job, lessons, own.epochs, start=start)
