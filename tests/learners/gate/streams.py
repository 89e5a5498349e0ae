"""Streams of differences for tests of the gate, and what feeds them to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TypeVar

from perdure.learners.gate.decision import GateDecision, Rounds
from perdure.learners.gate.scope import PROFILES, Comparison, Scope, fix_scope

Stream = Mapping[Comparison, Sequence[float]]
Machine = TypeVar("Machine", bound=Rounds)


def scope_of(earlier: int, trained: int = 0, profile: str = "standard") -> Scope:
    anchors = {f"old{k}": "v1" for k in range(earlier)}
    return fix_scope(PROFILES[profile], serving="v2", anchors=anchors, trained=[f"new{j}" for j in range(trained)])


def run(machine: Machine, difference: Callable[[Comparison, int], float]) -> Machine:
    """Feed it until it ends; `difference` is asked for the n-th pair of a comparison, from 0."""
    while machine.open:
        machine.round({comparison: difference(comparison, len(machine.history[comparison])) for comparison in machine.open})
    return machine


def follow(gate: GateDecision, stream: Stream) -> GateDecision:
    return run(gate, lambda comparison, n: stream[comparison][n])


def random_stream(scope: Scope, rng: Random, rounds: int) -> Stream:
    """Wins, losses and ties, or graded scores, around a mean that is drawn for each comparison."""
    graded = rng.random() < 0.3
    shift = rng.choice([0.0, 0.0, 0.0, -0.05, -0.1, -0.3])

    def value(mean: float, q: float) -> float:
        if graded:
            return min(max(rng.gauss(mean, 0.2), -1.0), 1.0)
        u, differs = rng.random(), max(q, abs(mean))
        return -1.0 if u < (differs - mean) / 2 else 1.0 if u < differs else 0.0

    stream = {}
    for comparison in (*scope.hold, *scope.gain):
        mean = rng.choice([0.0, 0.1, 0.4]) if comparison in scope.gain else shift
        q = rng.choice([0.02, 0.1, 0.3])
        stream[comparison] = [value(mean, q) for _ in range(rounds)]
    return stream


def score(rng: Random, success: float, answers: int) -> float:
    """Of one side: the mean of so many sampled answers."""
    return sum(rng.random() < success for _ in range(answers)) / answers
