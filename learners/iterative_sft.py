"""Iterative SFT: sample with the current step, keep what succeeded, imitate it, and sample again (RAFT, Dong et al. 2023).

Within a round the episodes are a few updates old: approximately on-policy, which the paper behind Perdure found to be often enough
(Chen et al. 2025). A round samples all episodes of its updates at once and learns from each success once.
"""

from __future__ import annotations

from perdure.learners.batches import imitate, replayed
from perdure.learners.workbench import Sampled, Workbench
from perdure.memory.errors import RuntimeFailure


def iterative_sft(bench: Workbench) -> None:
    """Raises `RuntimeFailure` where a whole round had no success to learn from."""
    options = bench.options
    rounds = min(options.rounds, options.updates)
    for round_ in range(rounds):
        updates = options.updates // rounds + (round_ < options.updates % rounds)
        sampled = bench.sample(options.prompts * updates)
        if not any(episode.success for group in sampled.target for episode in group):
            names = ", ".join(environment.name for environment in bench.targets)
            raise RuntimeFailure(
                f"nothing to learn from in {names}: no success in a round; make its tasks easier, or add shots=3 to its name"
            )
        for part in range(updates):
            share = Sampled(
                target=sampled.target[part::updates],
                old=sampled.old[part::updates],
                spoilt=sampled.spoilt if part == 0 else 0,
                seconds=sampled.seconds / updates,
            )
            lessons = imitate(share.target, 1.0, options.kl) + replayed(share.old, options.replay_weight, options.kl_old)
            bench.update(lessons, share, on_policy=part == 0)
