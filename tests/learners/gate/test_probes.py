"""Probes: what a version scores on held-out seeds, of which each may have several answers."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.envs.seeds import probe_seed
from perdure.learners.gate.player import Draw, Scores
from perdure.learners.gate.probes import probe
from perdure.memory.contracts.orders import ProbeOrder


class Told:
    """Gives these answers to the draws of each batch."""

    def __init__(self, answers: Sequence[Scores]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Sequence[Draw]]] = []

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        self.asked.append((version, draws))
        return self.answers


def test_the_score_of_a_seed_is_the_mean_of_its_answers_and_one_without_any_has_failed() -> None:
    player = Told([(1.0, 0.0), (1.0, None), (None, None), (0.0, 0.0)])
    found = probe(player, "v1", ["a"], ProbeOrder(episodes=4, temperature=0.7, samples=2), 5)
    assert player.asked == [("v1", [("a", probe_seed(5, "a", r)) for r in range(4)])]
    assert (found.version, found.temperature, found.samples) == ("v1", 0.7, 2)
    row = found.environments["a"]
    assert (row.score, row.episodes, row.failed) == (0.5, 3, 1)
    assert row.low < 0.5 < row.high


def test_an_environment_that_always_fails_has_no_score() -> None:
    row = probe(Told([(None,)] * 2), "v1", ["a"], ProbeOrder(episodes=2), 0).environments["a"]
    assert (row.score, row.low, row.high, row.episodes, row.failed) == (None, 0.0, 1.0, 0, 2)
