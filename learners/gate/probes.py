"""Probes: scores of a version on held-out seeds."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.envs.seeds import probe_seed
from perdure.learners.gate.intervals import score_interval
from perdure.learners.gate.player import Player, mean_score, play_scores
from perdure.memory.contracts.orders import ProbeOrder
from perdure.memory.contracts.results import ProbeResult, ProbeScore


def probe(player: Player, version: str, environments: Sequence[str], order: ProbeOrder, root_seed: int) -> ProbeResult:
    """Scores of a version on probe seeds of each environment, with 95 % intervals; all probes have the same seeds.

    The player samples answers as the order says. The score of a seed is the mean of its answers.
    """
    scores = {}
    for name in environments:
        draws = [(name, probe_seed(root_seed, name, r)) for r in range(order.episodes)]
        means = [mean_score(answers) for answers in play_scores(player, version, draws)]
        scored = [score for score in means if score is not None]
        low, high = score_interval(scored)
        scores[name] = ProbeScore(
            score=sum(scored) / len(scored) if scored else None,
            low=low,
            high=high,
            episodes=len(scored),
            failed=len(draws) - len(scored),
        )
    return ProbeResult(version=version, environments=scores, temperature=order.temperature, samples=order.samples)
