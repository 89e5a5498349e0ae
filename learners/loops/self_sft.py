"""Self-SFT: imitates, for several epochs, the start's own successes, sampled once before the first update.

The most off-policy of the learners that use the model's own answers; it forgets more than iterative SFT (Chen et al. 2025), and is meant
for comparison. Replay is on-policy: old environments are played with the current weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.learners.batches import lesson
from perdure.learners.epochs import imitation_epochs, per_task, target_episodes
from perdure.learners.gradients import ExtraLoss, ProjectGradient
from perdure.learners.workbench import NO_EXTRA_LOSSES, Workbench
from perdure.memory.errors import RuntimeFailure


def self_sft(
    workbench: Workbench, extra_losses: Mapping[str, ExtraLoss] = NO_EXTRA_LOSSES, project_gradient: ProjectGradient | None = None
) -> None:
    """Imitate the start's own successes.

    Raises `RuntimeFailure` if the start succeeds in none of the sampled tasks.
    """
    options = workbench.options
    start = workbench.sample_start(target_episodes(workbench))
    lessons = [lesson(episode, imitation=1.0, kl=options.kl) for group in per_task(start.target, options.per_task) for episode in group]
    if not lessons:
        raise RuntimeFailure(
            f"nothing to learn from in {workbench.names}: the start succeeded in none of {len(start.target)} tasks; make them easier, add "
            "shots=3 to its name, or learn from demonstrations (sft)"
        )
    imitation_epochs(workbench, lessons, extra_losses, project_gradient, start=start)
