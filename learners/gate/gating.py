"""Running a gate: what is played, in which order, and what is stored. `decision.py` decides.

Pairs are played in blocks, so that each side is one batch. Every pair is stored, also if the decision does not need it.

**A candidate's evidence is never restarted.** Gating it again first replays its stored pairs against the same references, in their order,
so wealth continues and a rejection stands. After a closed gate, `nmax` more rounds on new seeds are allowed. An interrupted gate resumes
with the rounds that were left, and with the same seeds if their outcomes were lost: a candidate cannot escape seeds on which it crashes
the process.

**Fresh seeds.** Seeds depend on the gate's number, so gates do not share them; a seed that repeats by chance is skipped.

Play is greedy, so scores differ from those of live episodes, which are sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from perdure.envs.seeds import dev_seed, gate_seed
from perdure.learners.gate.decision import GateDecision
from perdure.learners.gate.evidence import evidence
from perdure.learners.gate.pairs import PairTable, Player, play_scores
from perdure.learners.gate.rates import Plan, plan
from perdure.learners.gate.scope import GateSettings, Scope, fix_scope
from perdure.memory import faults, gates
from perdure.memory.contracts.results import GateResult, GateTerms
from perdure.memory.errors import InputError
from perdure.memory.records import Lease, Version
from perdure.memory.store import Store

BLOCK_ROUNDS = 4
ENOUGH_PAIRS_TO_PLAN = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCase:
    """Candidate, references and margins. Without trained environments only retention is tested."""

    candidate: Version
    serving: Version
    settings: GateSettings
    anchors: Mapping[str, str]
    """The anchor of every environment that is judged against one; environments in `trained` are left out of the pool."""
    trained: tuple[str, ...] = ()
    critical: tuple[str, ...] = ()
    anchor_scores: Mapping[str, float] = field(default_factory=dict)
    """Means on dev seeds (`dev_scores`); they decide which environments vote."""
    serving_scores: Mapping[str, float] = field(default_factory=dict)
    """The same for the serving version in the trained environments; they decide which need a gain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateWork:
    """The means to run a gate."""

    store: Store
    lease: Lease
    play: Player
    root_seed: int
    progress: Callable[[str], None]


def run_gate(case: GateCase, work: GateWork) -> GateResult:
    """Gate a candidate and store every pair. The caller writes the result (`gates.close_gate`) and its consequences.

    If pairs of past gates differed often, `nmax` is raised. Raises `LeaseLost` if another process has the job; after any other
    interruption, the candidate's next gate continues with the stored pairs.
    """
    store, candidate = work.store, case.candidate.name
    if candidate == case.serving.name and case.trained:
        raise InputError(f"{candidate} is serving: there is no gain over itself to show; gate it without a target")
    former = gates.gates_of(store, candidate)
    scope = _scope(case, former, work)
    terms = GateTerms(scope=scope.text(), nmax=scope.settings.nmax, seeds_of=_gate_whose_seeds_repeat(former, work.lease, scope))
    gate_id = gates.start_gate(store, work.lease, candidate, case.serving.name, scope.settings.profile, terms)
    seeds_of = terms.seeds_of or gate_id
    table = PairTable(scope, candidate, partial(gate_seed, work.root_seed, seeds_of), partial(gates.seed_used, store), work.play)
    last_closed = max((gate.id for gate in former if gate.result is not None), default=0)
    closed = [old for old in former if old.id <= last_closed]
    interrupted = [old for old in former if old.id > last_closed]
    for old in closed:
        table.take(gates.pairs_of(store, old.id))
    gate = GateDecision(scope, limit=_rounds_stored(table, scope) + scope.settings.nmax)
    for old in interrupted:
        table.take(gates.pairs_of(store, old.id), same_gate=old.id >= seeds_of)
    table.feed(gate)
    continued = sum(map(len, gate.history.values()))
    if continued:
        work.progress(f"gate {gate_id} of {candidate}: continues with {continued} stored pairs, {gate.rounds} rounds")
    while gate.open:
        rounds = max(scope.settings.nmin - gate.rounds, BLOCK_ROUNDS)
        pairs = table.play_block(gate, min(rounds, gate.limit - gate.rounds))
        gates.add_pairs(store, work.lease, gate_id, pairs)
        faults.point("mid-gate")
        table.feed(gate)
        work.progress(
            f"gate {gate_id} of {candidate}: round {gate.rounds} of at most {gate.limit}, {len(gate.open)} comparisons open, "
            f"{table.candidate_episodes} + {table.reference_episodes} episodes"
        )
    assert gate.verdict is not None
    return GateResult(
        gate=gate_id,
        candidate=candidate,
        serving=case.serving.name,
        profile=scope.settings.profile,
        verdict=gate.verdict,
        reason=gate.reason,
        rounds=gate.rounds,
        evidence=evidence(gate, table.played(gate)),
        continued_pairs=continued,
        candidate_episodes=table.candidate_episodes,
        anchor_episodes=table.reference_episodes,
    )


def _scope(case: GateCase, former: list[gates.GateRow], work: GateWork) -> Scope:
    """The scope of this gate: an interrupted one resumes with its own rounds, a new one gets enough of them."""
    scope = fix_scope(
        case.settings,
        serving=case.serving.name,
        anchors=case.anchors,
        trained=case.trained,
        critical=case.critical,
        anchor_scores=case.anchor_scores,
        serving_scores=case.serving_scores,
    )
    if former and former[-1].result is None:
        return replace(scope, settings=replace(scope.settings, nmax=former[-1].terms.nmax))
    q = past_q(work.store)
    return scope if q is None else _with_enough_rounds(scope, plan(scope, {c.environment: q for c in scope.hold}), work.progress)


def _with_enough_rounds(scope: Scope, planned: Plan, progress: Callable[[str], None]) -> Scope:
    """Raise `nmax` if the profile would refuse more than 20 % of the candidates that hold, as on a noisy stream."""
    sentence = planned.sentence()
    if sentence is not None:
        progress(sentence)
    return replace(scope, settings=replace(scope.settings, nmax=planned.rounds()))


def dev_scores(play: Player, versions: Mapping[str, str], *, root_seed: int, episodes: int = 16) -> dict[str, float]:
    """Mean score of a version in each environment on its first dev seeds; decides before the gate which environments vote.

    An environment that fails in half of them or more gets no score, and so votes.
    """
    scores = {}
    for version in dict.fromkeys(versions.values()):
        names = [name for name in versions if versions[name] == version]
        draws = [(name, dev_seed(root_seed, name, r)) for name in names for r in range(episodes)]
        played = play_scores(play, version, draws)
        for name in names:
            known = [score for draw, score in zip(draws, played, strict=True) if draw[0] == name and score is not None]
            if 2 * len(known) > episodes:
                scores[name] = sum(known) / len(known)
    return scores


def past_q(store: Store) -> float | None:
    """The mean squared difference of pairs in earlier environments; None if there are too few pairs to plan with.

    Rejected gates are left out, because q is meant for a candidate that holds.
    """
    pairs, q = gates.squared_differences(store)
    return q if pairs >= ENOUGH_PAIRS_TO_PLAN else None


def _rounds_stored(table: PairTable, scope: Scope) -> int:
    """The number of rounds in the stored pairs."""
    gate = GateDecision(scope, limit=2**31)  # no limit: the stored pairs are to end it, or the verdict
    table.feed(gate)
    return gate.rounds


def _gate_whose_seeds_repeat(former: list[gates.GateRow], lease: Lease, scope: Scope) -> int | None:
    """The number of the gate whose seeds are played again: the candidate's last, if it was interrupted with the same scope.

    None for the new gate's own seeds.
    """
    if not former or former[-1].result is not None or former[-1].terms.scope != scope.text():
        return None
    last = former[-1]
    if (last.job, last.attempt) == (lease.subject, lease.attempt):
        return last.terms.seeds_of  # the same gate resumes (`gates.start_gate`), and its terms must not change
    return last.terms.seeds_of or last.id  # the seeds that it repeated itself, or its own
