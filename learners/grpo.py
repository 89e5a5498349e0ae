"""GRPO, strictly on-policy: fresh groups for every update, one optimiser step on each batch.

A = R - mean of the group (Shao et al. 2024, without the division by the standard deviation: Liu et al. 2025), a token-level mean over the
batch, truncated importance sampling for what sampler and learner compute differently. As every batch is used once, the ratio of new to
old policy is 1 and nothing is clipped. Left out: several epochs on a batch, a value function, a KL penalty inside the reward.
"""

from __future__ import annotations

from perdure.learners.batches import contrast, replayed
from perdure.learners.workbench import Workbench
from perdure.memory.errors import RuntimeFailure

PATIENCE = 4
"""Updates without a single mixed group of a target, from the first on, after which the job ends."""


def grpo(bench: Workbench) -> None:
    """Raises `RuntimeFailure` where there is nothing to learn from: every group of the targets had equal rewards."""
    options = bench.options
    learnt = False
    while bench.step < options.updates:
        sampled = bench.sample(options.prompts)
        lessons = contrast(sampled.target, options.kl)
        learnt |= bool(lessons)
        lessons += replayed(sampled.old, options.replay_weight, options.kl_old)
        bench.update(lessons, sampled, on_policy=True)
        if not learnt and bench.step >= min(PATIENCE, options.updates):
            names = ", ".join(environment.name for environment in bench.targets)
            raise RuntimeFailure(
                f"nothing to learn from in {names}: in {bench.step} updates all members of each group had equal rewards (success "
                f"{bench.last['success'] or 0:.2f}); make its tasks easier, add shots=3 to its name, or choose another target"
            )
