"""Probes: scores of a version on held-out seeds."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.envs.seeds import probe_seed
from perdure.learners.gate.intervals import score_interval
from perdure.learners.gate.pairs import Player
from perdure.memory.contracts.results import ProbeResult, ProbeScore


def probe(player: Player, version: str, environments: Sequence[str], episodes: int, root_seed: int) -> ProbeResult:
    """Scores of a version on `episodes` probe seeds of each environment, with 95 % intervals; all probes have the same seeds."""
    scores = {}
    for name in environments:
        draws = [(name, probe_seed(root_seed, name, r)) for r in range(episodes)]
        scored = [score for score in player.scores(version, draws) if score is not None]
        low, high = score_interval(scored)
        scores[name] = ProbeScore(
            score=sum(scored) / len(scored) if scored else None,
            low=low,
            high=high,
            episodes=len(scored),
            failed=len(draws) - len(scored),
        )
    return ProbeResult(version=version, environments=scores)
