"""What players say to one fixed prompt under each version: two that differ do not serve the same, whatever files they have.

The first player to load a version is what the others are compared with. Which of two is wrong cannot be told from two, so that the event
names both. Left out: that an adapter has an effect at all, which each engine checks for itself (`learners/engines/adapter_effect.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

EXACT_APART, APART = 1e-3, 5e-2
"""Mean difference of log-probs, in nats a token, that rounding explains: with float32 on both sides, and otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidScores:
    """The log-probs of a fixed answer, as one player's engine computes them."""

    player: str
    numerics: str
    scores: Sequence[float]


@dataclass(slots=True, kw_only=True)
class PromptScores:
    """By the hash of the version, what its first player said."""

    first: dict[str, SaidScores] = field(default_factory=dict)

    def contradiction(self, player: str, hash_: str, numerics: str, scores: Sequence[float]) -> str | None:
        """How a player contradicts the first one; None if it does not."""
        if not scores or not all(map(math.isfinite, scores)):
            return "gives no finite log-probs for a fixed prompt"
        first = self.first.setdefault(hash_, SaidScores(player=player, numerics=numerics, scores=tuple(scores)))
        if len(first.scores) != len(scores):
            return f"has {len(scores)} tokens in a fixed answer, and {len(first.scores)} at {first.player}"
        apart = math.fsum(abs(a - b) for a, b in zip(first.scores, scores, strict=True)) / len(scores)
        if apart > (EXACT_APART if "float32" in numerics and "float32" in first.numerics else APART):
            return f"scores a fixed prompt {apart:.3g} nats a token apart from {first.player} ({numerics}; {first.numerics} there)"
        return None
