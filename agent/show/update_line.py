"""The numbers of an update that say how it goes, in one line: the same wherever an update is shown."""

from __future__ import annotations

from perdure.agent.show.terminal import rounded
from perdure.memory.contracts.results import Update


def update_line(update: Update) -> str:
    """Of these numbers, those that there is data for."""
    groups = update.groups
    played = groups.groups > 0
    numbers = {
        "reward": groups.reward,
        "success": groups.success,
        "old success": groups.old_success,
        "nll": update.nll,
        **{f"{name} loss": loss for name, loss in update.extra_losses.items()},
        "groups": groups.groups if played else None,
        "dropped groups": groups.dropped_groups if played else None,
        "live groups": groups.live_groups or None,
        "mismatch kl": update.ratios.mismatch_kl,
        "grad norm": update.grad_norm,
        "tokens per s": update.tokens_per_s,
        "seconds": update.seconds,
    }
    return ", ".join(f"{name} {rounded(value)}" for name, value in numbers.items() if value is not None)
