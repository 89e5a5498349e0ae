"""Running a gate: what is played, in which order, and what is stored. `decision.py` decides.

    0. the capability panel                  it can only reject               `learners/panel/panel_limits.py`
    1. the gate itself                       until it has a verdict           `decision.py`
    2. promote, if the version is to serve   where it becomes the anchor      `election.py`
       reject                                which environments fell          `regressions.py`

The panel is scored before (`agent/processes/panel_work.py`). The others play pairs in blocks, so that each side is one batch. Every pair is
stored as one of this gate, also if no decision needs it, and the last part goes on with the pairs of the one before. So a gate that is
interrupted anywhere resumes by replaying its pairs (`former_gates.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from perdure.envs.seeds import gate_seed
from perdure.learners.gate.decision import GateDecision, Rounds
from perdure.learners.gate.election import AnchorElection
from perdure.learners.gate.evidence import evidence
from perdure.learners.gate.former_gates import FormerGates, former_gates, gate_whose_seeds_repeat, sampling_of
from perdure.learners.gate.pairs import PairTable
from perdure.learners.gate.player import Player, Sampling
from perdure.learners.gate.rates import plan
from perdure.learners.gate.regressions import RegressionSearch
from perdure.learners.gate.scope import GateSettings, Scope, fix_scope
from perdure.learners.panel.panel_limits import refusal_of
from perdure.memory import faults, gates
from perdure.memory.contracts.orders import Consequence
from perdure.memory.contracts.panel_results import PanelResult
from perdure.memory.contracts.results import GateResult, GateTerms
from perdure.memory.errors import InputError
from perdure.memory.evidence import past_pairs
from perdure.memory.records import Decision, Lease, Version
from perdure.memory.store import Store

BLOCK_ROUNDS = 4
MOST_BLOCK_ROUNDS = 8
BLOCK_PAIRS = 24
"""Of one reference, at least, as far as the other two allow it."""
QUESTIONS: dict[Decision | None, str] = {"promote": "where does it beat its anchors?", "reject": "which environments fell?"}
ENOUGH_PAIRS_TO_PLAN = 30
"""Of one environment, for its own q."""


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
    """Mean scores of the anchors (`reference_scores.py`); they decide which environments vote."""
    serving_scores: Mapping[str, float] = field(default_factory=dict)
    """The same for the serving version in the trained environments; they decide which need a gain."""
    leads_to: Consequence = "nothing"
    """If a promotion follows by itself, the gate also finds where the candidate becomes the anchor. One that leads to a rollback asks for
    today's loss: it continues only gates of its own job, and asks nothing further."""
    panel: PanelResult | None = None
    """The candidate on the capability panel beside the serving version; a refusal there ends the gate before the first pair."""


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
    former = _former(case, work)
    scope = _scope(case, former, work)
    terms = GateTerms(scope=scope.text(), nmax=scope.settings.nmax, seeds_of=gate_whose_seeds_repeat(former, work.lease, scope))
    gate_id = gates.start_gate(store, work.lease, candidate, case.serving.name, scope.settings.profile, terms)
    seeds_of = terms.seeds_of or gate_id
    table = PairTable(scope, candidate, partial(gate_seed, work.root_seed, seeds_of), partial(gates.seed_used, store), work.play)
    for old in former.closed:
        table.take(gates.pairs_that_count(store, old.id))
    gate = GateDecision(scope, limit=_rounds_stored(table, scope) + scope.settings.nmax)
    refused = None if case.panel is None else refusal_of(case.panel)
    if refused is not None:
        gate.end("reject", refused)
    for old in former.interrupted:
        table.take(gates.pairs_that_count(store, old.id), same_gate=old.id >= seeds_of)
    table.feed(gate)
    continued, name = sum(map(len, gate.history.values())), f"gate {gate_id} of {candidate}"
    if continued:
        work.progress(f"{name}: continues with {continued} stored pairs, {gate.rounds} rounds")
    while gate.open:
        _play_block(gate, table, gate_id, work)
        faults.point("mid-gate")
        work.progress(_now(gate, table, name, f"round {gate.rounds} of at most {gate.limit}"))
    further = None if refused is not None else _further_question(gate, case)
    if further is not None:
        table.feed(further)
        while further.open:
            _play_block(further, table, gate_id, work)
            faults.point("mid-election")
            work.progress(_now(further, table, name, f"{gate.verdict}; {QUESTIONS[gate.verdict]}"))
    assert gate.verdict is not None
    return GateResult(
        gate=gate_id,
        candidate=candidate,
        serving=case.serving.name,
        profile=scope.settings.profile,
        verdict=gate.verdict,
        reason=gate.reason,
        rounds=gate.rounds,
        evidence=evidence(
            gate,
            table.played(gate.history),
            history=further.history if further else None,
            regressed=further.regressed if isinstance(further, RegressionSearch) else (),
        ),
        continued_pairs=continued,
        candidate_episodes=table.candidate_episodes,
        anchor_episodes=table.reference_episodes,
        alpha=scope.settings.alpha,
        samples=scope.settings.samples,
        temperature=scope.settings.temperature,
        new_anchors=further.new_anchors if isinstance(further, AnchorElection) else (),
        panel=case.panel,
    )


def _further_question(gate: GateDecision, case: GateCase) -> AnchorElection | RegressionSearch | None:
    """What is asked after the verdict, if anything."""
    if gate.verdict == "promote" and case.leads_to == "promotion":
        return AnchorElection(gate.scope, gate.history, case.anchor_scores)
    if gate.verdict == "reject" and case.leads_to != "rollback":
        return RegressionSearch(gate.scope, gate.history)
    return None


def _play_block(rounds: Rounds, table: PairTable, gate: int, work: GateWork) -> None:
    """Play and store a block of pairs, and pass on the rounds that are whole."""
    gates.add_pairs(work.store, work.lease, gate, table.play_block(rounds, _block(rounds)))
    table.feed(rounds)


def _now(rounds: Rounds, table: PairTable, gate: str, doing: str) -> str:
    played = f"{table.candidate_episodes} + {table.reference_episodes} episodes"
    return f"{gate}: {doing}, {len(rounds.open)} comparisons open, {played}"


def _block(rounds: Rounds) -> int:
    """How many rounds are played at once: more if few comparisons are open against a reference, since a batch of few episodes is slow."""
    references = len({comparison.reference for comparison in rounds.open})
    block = max(BLOCK_ROUNDS, min(MOST_BLOCK_ROUNDS, BLOCK_PAIRS * references // len(rounds.open)))
    if not isinstance(rounds, GateDecision):
        return block
    before_any_decision = rounds.scope.settings.nmin - rounds.rounds
    return min(max(before_any_decision, BLOCK_ROUNDS) if before_any_decision > 0 else block, rounds.limit - rounds.rounds)


def _former(case: GateCase, work: GateWork) -> FormerGates:
    settings = case.settings
    of_candidate = gates.gates_of(work.store, case.candidate.name)
    if case.leads_to == "rollback":
        of_candidate = [gate for gate in of_candidate if gate.job == work.lease.subject]
    former = former_gates(of_candidate, Sampling(temperature=settings.temperature, samples=settings.samples))
    for gate in former.left_out:
        if number := len(gates.pairs_of(work.store, gate.id)):
            then = sampling_of(gate.terms)
            work.progress(
                f"the {number} pairs of gate {gate.id} do not count: it had {then.samples} answers to a seed at temperature "
                f"{then.temperature:g}, this one has {settings.samples} at {settings.temperature:g}"
            )
    return former


def _scope(case: GateCase, former: FormerGates, work: GateWork) -> Scope:
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
    if former.interrupted:
        return replace(scope, settings=replace(scope.settings, nmax=former.interrupted[-1].terms.nmax))
    planned = plan(scope, past_q(work.store, scope.settings))
    if (sentence := planned.sentence()) is not None:
        work.progress(sentence)
    return replace(scope, settings=replace(scope.settings, nmax=planned.rounds()))


def past_q(store: Store, settings: GateSettings) -> dict[str, float]:
    """The mean squared difference of pairs, for each earlier environment that has enough of them to plan with.

    Rejected gates are left out, because q is meant for a candidate that holds.
    """
    found = past_pairs.squared_differences(store, settings.temperature, settings.samples)
    return {name: q for name, (pairs, q) in found.items() if pairs >= ENOUGH_PAIRS_TO_PLAN}


def _rounds_stored(table: PairTable, scope: Scope) -> int:
    """The number of rounds in the stored pairs."""
    gate = GateDecision(scope, limit=2**31)  # no limit: the stored pairs are to end it, or the verdict
    table.feed(gate)
    return gate.rounds
