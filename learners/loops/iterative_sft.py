"""Iterative SFT: sample with the current weights, imitate the successes, and sample again (RAFT, Dong et al. 2023).

Within a round the episodes are a few updates old: approximately on-policy, which is often enough according to the paper behind Perdure
(Chen et al. 2025). A round samples all episodes of its updates at once, and learns from each success once. With `hints`, tasks without a
success are retried with the right answer as a hint, and successes are learned under the prompt without it (STaR, Zelikman et al. 2022).
With `restart`, each round samples with the latest weights but learns from the start's (ReST-EM, Singh et al. 2023); the learning rate then
falls within each round.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from perdure.learners.batches import Lesson, imitation_lessons, kl_only, replay_lessons
from perdure.learners.epochs import per_task
from perdure.learners.gradients import ExtraLoss, ProjectGradient
from perdure.learners.loops.hints import check_oracle, retry_with_hints
from perdure.learners.workbench import NO_EXTRA_LOSSES, Workbench
from perdure.memory.errors import RuntimeFailure


def iterative_sft(
    workbench: Workbench, extra_losses: Mapping[str, ExtraLoss] = NO_EXTRA_LOSSES, project_gradient: ProjectGradient | None = None
) -> None:
    """Sample, then imitate the successes, in `options.rounds` rounds.

    Raises `RuntimeFailure` if no round had a success to learn from, `InputError` if hints need an oracle.
    """
    options = workbench.options
    rounds = min(options.rounds, options.updates)
    each, more = divmod(options.updates, rounds)
    ends = [n * each + min(n, more) for n in range(rounds + 1)]
    if options.hints:
        for target in workbench.targets:
            check_oracle(target, "hints=true")
    while workbench.step < options.updates:
        begin, end = next((begin, end) for begin, end in pairwise(ends) if end > workbench.step)
        updates = end - workbench.step
        sampled = workbench.sample(options.prompts * updates)
        hinted: list[Lesson] = retry_with_hints(workbench, sampled.target) if options.hints else []
        won = bool(hinted) or any(episode.success for group in sampled.target for episode in group)
        workbench.learned |= won
        if not workbench.learned:
            raise RuntimeFailure(
                f"nothing to learn from in {workbench.names}: no success in a round; make its tasks easier, add shots=3 to its name, or "
                "give hints=true if it has an oracle"
            )
        if options.restart and won and workbench.step == begin:
            workbench.trainee.restart()
        for n in range(updates):
            share = sampled.part(n, updates)
            lessons = imitation_lessons(per_task(share.target, options.per_task), 1.0, options.kl) + hinted[n::updates]
            lessons += kl_only(share.target, lessons, options.kl)
            lessons += replay_lessons(share.old, options)
            lessons += workbench.stored()
            done = (workbench.step - begin) / (end - begin) if options.restart else None
            workbench.update(lessons, share, on_policy=n == 0, extra_losses=extra_losses, project_gradient=project_gradient, done=done)
