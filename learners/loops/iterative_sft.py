"""Iterative SFT: sample with the current weights, imitate the successes, and sample again (RAFT, Dong et al. 2023).

Within a round the episodes are a few updates old: approximately on-policy, which is often enough according to the paper behind Perdure
(Chen et al. 2025). A round samples all episodes of its updates at once, and learns from each success once. With `hints`, tasks without a
success are retried with the right answer as a hint, and successes are learned under the prompt without it (STaR, Zelikman et al. 2022).
With `restart`, each round samples with the latest weights but learns from the start's (ReST-EM, Singh et al. 2023); the learning rate then
falls within each round.
"""

from __future__ import annotations

from perdure.learners.batches import Lesson, imitation_lessons
from perdure.learners.epochs import per_task
from perdure.learners.learning_job import LearningJob
from perdure.learners.loops.hints import check_oracle, retry_with_hints
from perdure.learners.loops.nothing_to_learn import nothing_to_learn
from perdure.learners.old_lessons import with_other_lessons
from perdure.learners.options import IterativeSftOptions
from perdure.learners.sampling.batch_sampling import sample
from perdure.learners.selection.checking import check_and_go_on
from perdure.learners.updating import update


def iterative_sft(job: LearningJob) -> None:
    """Sample, then imitate the successes, in `rounds` rounds.

    Raises `RuntimeFailure` if no round had a success to learn from, `InputError` if hints need an oracle.
    """
    options, own, progress = job.options, job.options.of(IterativeSftOptions), job.progress
    if own.hints:
        for target in job.environments.targets:
            check_oracle(target, "hints=true")
    while check_and_go_on(job):
        begin, end = own.round_at(progress.step, progress.updates)
        first, updates = progress.step, end - progress.step
        sampled = sample(job, options.common.prompts * updates)
        hinted: list[Lesson] = retry_with_hints(job, sampled.target) if own.hints else []
        won = bool(hinted) or any(episode.success for group in sampled.target for episode in group)
        progress.learned |= won
        if not progress.learned:
            raise nothing_to_learn(
                job, "no success in a round; make its tasks easier, add shots=3 to its name, or give hints=true if it has an oracle"
            )
        if own.restart and won and first == begin:
            job.trainee.restart()
        while progress.step < end and check_and_go_on(job):
            n = progress.step - first
            part = sampled.part(n, updates)
            lessons = imitation_lessons(per_task(part.target, own.per_task), 1.0, options.loss.kl) + hinted[n::updates]
            with_old = with_other_lessons(job, lessons, part)
            update(job, with_old, part, signal=float(bool(lessons)), rate_span=(begin, end) if own.restart else None)
