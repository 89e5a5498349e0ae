"""The candidate's gates so far: which of their stored pairs a new gate continues, and whose seeds it repeats.

**A candidate's evidence is never restarted.** Gating it again first replays its stored pairs against the same references, in their order,
so wealth continues and a rejection stands. Only pairs whose answers were sampled otherwise (another temperature, another number of answers)
are left out, since they answer another question.

**Fresh seeds.** Seeds depend on the gate's number, so gates do not share them. A gate that was interrupted is resumed with the seeds whose
outcomes were lost: a candidate cannot escape seeds on which it crashes the process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from perdure.learners.gate.player import Sampling
from perdure.learners.gate.scope import Scope
from perdure.memory.contracts.results import GateTerms
from perdure.memory.gates import GateRow
from perdure.memory.records import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerGates:
    """Those of one candidate, oldest first."""

    closed: tuple[GateRow, ...] = ()
    """All up to the last one with a verdict: a new gate has rounds of its own beside theirs."""
    interrupted: tuple[GateRow, ...] = ()
    """Those after it: the gate that resumes them has the rounds that were left."""
    left_out: tuple[GateRow, ...] = ()
    """Those whose answers were sampled otherwise."""


def former_gates(gates: Sequence[GateRow], sampling: Sampling) -> FormerGates:
    """Sort the gates of a candidate for a gate that samples its answers so."""
    alike = [gate for gate in gates if sampling_of(gate.terms) == sampling]
    last_closed = max((gate.id for gate in alike if gate.result is not None), default=0)
    return FormerGates(
        closed=tuple(gate for gate in alike if gate.id <= last_closed),
        interrupted=tuple(gate for gate in alike if gate.id > last_closed),
        left_out=tuple(gate for gate in gates if gate not in alike),
    )


def sampling_of(terms: GateTerms) -> Sampling:
    """How a gate sampled its answers; one of the time before they were sampled was greedy."""
    scope = json.loads(terms.scope)
    return Sampling(temperature=scope.get("temperature", 0.0), samples=scope.get("samples", 1))


def alpha_of(terms: GateTerms) -> float | None:
    """The alpha with which a gate began; None if its terms do not say."""
    alpha = json.loads(terms.scope).get("alpha")
    return None if alpha is None else float(alpha)


def gate_whose_seeds_repeat(former: FormerGates, lease: Lease, scope: Scope) -> int | None:
    """The number of the gate whose seeds are played again: the candidate's last, if it was interrupted with the same scope.

    None for the new gate's own seeds.
    """
    if not former.interrupted or former.interrupted[-1].terms.scope != scope.text():
        return None
    last = former.interrupted[-1]
    if (last.job, last.attempt) == (lease.subject, lease.attempt):
        return last.terms.seeds_of  # the same gate resumes (`gates.start_gate`), and its terms must not change
    return last.terms.seeds_of or last.id  # the seeds that it repeated itself, or its own
