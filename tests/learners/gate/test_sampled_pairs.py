"""Pairs of several answers on each side: what their scores are, and what a failure counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest
from tests.learners.gate.gated_home import OLD, STANDARD, SkilledPlayer, gate_it, held

from perdure.learners.gate.pairs import PairTable
from perdure.learners.gate.player import Draw, Scores
from perdure.learners.gate.scope import fix_scope
from perdure.memory import gates, versions
from perdure.memory.contracts.results import GateResult
from perdure.memory.records import Pair
from perdure.memory.store import Store

SCOPE = fix_scope(STANDARD, serving="v1", anchors={}, trained=["new"])


@dataclass
class Told:
    """Gives the answers that it was told to."""

    reference: Scores
    candidate: Scores

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        return [self.candidate if version == "v2" else self.reference] * len(draws)


def pair_of(reference: Scores, candidate: Scores) -> Pair:
    from perdure.learners.gate.decision import GateDecision

    table = PairTable(SCOPE, "v2", lambda name, r: r, lambda *_: False, Told(reference, candidate))
    return table.play_block(GateDecision(SCOPE), 1)[0]


@pytest.mark.parametrize(
    ("reference", "candidate", "scores"),
    [
        ((1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 1.0), (0.25, 0.75, 0.5)),
        ((0.5, 0.5), (0.25, 0.25), (0.5, 0.25, -0.25)),
        ((1.0, 1.0), (1.0, None), (1.0, 0.5, -0.5)),
        ((0.0, 0.0), (1.0, None), (0.0, 0.5, 0.0)),
        ((0.0, 0.0), (None, None), (0.0, None, -1.0)),
        ((1.0,), (None,), (1.0, None, -1.0)),
    ],
)
def test_an_answer_that_failed_counts_as_a_loss_of_one(reference: Scores, candidate: Scores, scores: tuple[float | None, ...]) -> None:
    pair = pair_of(reference, candidate)
    assert (pair.reference_score, pair.candidate_score, pair.difference) == scores


@pytest.mark.parametrize("reference", [(None, None), (1.0, None), (None, 0.0, 1.0)])
def test_a_pair_is_void_if_an_answer_of_the_reference_failed(store: Store, reference: Scores) -> None:
    class HalfTold(Told):
        asked = 0

        def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
            self.asked += version == "v1"
            return [(1.0, 1.0)] * len(draws) if version == "v2" or self.asked > 1 else [self.reference] * len(draws)

    from perdure.learners.gate.decision import GateDecision

    table = PairTable(SCOPE, "v2", lambda name, r: r, lambda *_: False, HalfTold(reference, ()))
    pairs = table.play_block(GateDecision(SCOPE), 2)
    assert [(pair.draw, pair.reference_score, pair.difference) for pair in pairs] == [
        (0, None, None),
        (1, None, None),
        (2, 1.0, 0.0),
        (3, 1.0, 0.0),
    ]
    assert table.reference_episodes == 2 * len(reference) + 2 * 2
    assert table.candidate_episodes == 4


class SamplingPlayer(SkilledPlayer):
    """Four answers a seed, each won with the skill of the version by a draw of its own."""

    def __init__(self, skill: Callable[[str, str], float], seed: int = 0) -> None:
        super().__init__(skill)
        self.chance = Random(seed)

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        self.asked.append((version, list(draws)))
        return [tuple(float(self.chance.random() < self.skill(version, name)) for _ in range(4)) for name, _ in draws]


def sampled_gate(store: Store, skill: Callable[[str, str], float], **more: object) -> GateResult:
    return gate_it(store, SamplingPlayer(skill), **more)  # type: ignore[arg-type]


def test_a_gain_in_success_is_shown_and_scores_are_those_of_the_answers(store: Store) -> None:
    result = sampled_gate(store, lambda v, e: 0.7 if e in OLD else 0.8 if v == "v2" else 0.3)
    assert (result.verdict, result.samples, result.temperature) == ("promote", 4, 1.0)
    pairs = gates.pairs_of(store, result.gate)
    assert {pair.difference for pair in pairs} <= {n / 4 for n in range(-4, 5)}
    assert len({pair.difference for pair in pairs}) > 3
    assert result.candidate_episodes == 4 * len(pairs)
    assert result.evidence.trained["new"].candidate_score == pytest.approx(0.8, abs=0.15)


def test_pairs_that_were_sampled_otherwise_do_not_count_and_that_is_said(store: Store) -> None:
    first = sampled_gate(store, lambda v, e: 1.0 if e in OLD else 0.55 if v == "v2" else 0.5, settings=replace(STANDARD, nmax=8))
    assert first.verdict != "promote"
    said: list[str] = []
    cold = replace(STANDARD, temperature=0.0, samples=1)
    second = gate_it(store, SkilledPlayer(held), settings=cold, said=said)
    assert second.continued_pairs == 0
    assert said[0] == (
        f"the {len(gates.pairs_of(store, first.gate))} pairs of gate 1 do not count: it had 4 answers to a seed at temperature 1, "
        "this one has 1 at 0"
    )
    assert (second.verdict, second.temperature, second.samples) == ("promote", 0.0, 1)
    third = sampled_gate(store, lambda v, e: 0.7 if e in OLD else 0.8 if v == "v2" else 0.5)
    legs = [*first.evidence.environments.values(), *first.evidence.trained.values()]
    assert third.continued_pairs >= sum(leg.n for leg in legs) > 0
    assert versions.serving(store).name == "v1"
