"""Results of jobs for tests that only need one to be there, with every field that the real ones have."""

from __future__ import annotations

from collections.abc import Mapping

from perdure.memory.contracts.results import (
    Cost,
    Evidence,
    GateResult,
    GateTerms,
    GroupStats,
    LearnResult,
    Leg,
    LegState,
    Selection,
    StepScore,
    StepScores,
    Update,
)
from perdure.memory.records import Decision

TERMS = GateTerms(scope="{}", nmax=48, seeds_of=None)


def gate_result(
    verdict: Decision = "promote",
    *,
    gate: int = 1,
    candidate: str = "v1",
    reason: str = "all held",
    environments: Mapping[str, Leg] | None = None,
    pooled: Leg | None = None,
    gain: LegState = "passed",
    trained: Mapping[str, Leg] | None = None,
) -> GateResult:
    evidence = Evidence(
        environments=environments or {}, pooled=pooled, gain=Leg(state=gain), trained=trained or {}, interval="time-uniform, 95%"
    )
    return GateResult(
        gate=gate,
        candidate=candidate,
        serving="v0",
        profile="economy",
        verdict=verdict,
        reason=reason,
        rounds=12,
        evidence=evidence,
        continued_pairs=0,
        candidate_episodes=40,
        anchor_episodes=52,
    )


SELECTION = Selection(
    step=3,
    reason="the targets scored 0.75 there, 0.31 at the start and 0.06 at step 6",
    ended_early="the targets collapsed: score 0.75 at step 3, 0.06 at step 6",
    checks=tuple(
        StepScores(step=step, targets={"c": StepScore(score=score, episodes=16)}, old={"a": StepScore(score=None, episodes=0)})
        for step, score in ((0, 0.3125), (3, 0.75), (6, 0.0625))
    ),
)


def learn_result(gate: GateResult | None, *, version: str = "v1") -> LearnResult:
    return LearnResult(
        version=version,
        verdict=gate.verdict if gate else None,
        reason=gate.reason if gate else "not gated",
        diagnostics=update(6),
        selection=SELECTION,
        cost=Cost(updates=1, sampled_tokens=10, learned_tokens=8, sampling_s=0.5, learning_s=1.5),
        gate=gate,
        learn_s=2.0,
        gate_s=1.0,
    )


def update(n: int, *, success: float | None = None, nll: float | None = None, grad_norm: float | None = None) -> Update:
    return Update(
        update=n,
        groups=GroupStats(reward=success, success=success, groups=0 if success is None else 8),
        nll=nll,
        grad_norm=grad_norm,
        tokens=1000,
        sampled_tokens=234,
        learning_s=0.5,
        sampling_s=0.5,
    )
