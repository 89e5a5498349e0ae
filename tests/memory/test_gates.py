"""Gates: settings before pairs, pairs before the verdict, and nothing rewritten."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
from tests.results import TERMS, gate_result

from perdure.memory import gates, jobs
from perdure.memory.contracts.orders import GateOrder
from perdure.memory.contracts.results import Leg
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure, UnknownError
from perdure.memory.records import Lease, Pair
from perdure.memory.store import Store

ADD = "perdure:add"
PAIR = Pair(
    environment=ADD, role="earlier", draw=0, seed=2**31 + 5, reference="v0", reference_score=1.0, candidate_score=0.0, difference=-1.0
)


@pytest.fixture
def lease(store: Store, clock, add_version) -> Lease:
    add_version()
    jobs.add_job(store, "k", [ADD], GateOrder(candidate="v1"))
    leased = jobs.lease_job(store, "gater", 60, clock)
    assert leased is not None
    return leased[1]


def test_a_gate_from_start_to_verdict(store: Store, lease: Lease) -> None:
    assert gates.last_verdict(store) is None
    gate = gates.start_gate(store, lease, "v1", "v0", "standard", TERMS)
    assert gates.start_gate(store, lease, "v1", "v0", "standard", TERMS) == gate
    void = dataclasses.replace(PAIR, draw=1, seed=6, reference_score=None, candidate_score=None, difference=None)
    crash = dataclasses.replace(PAIR, draw=2, seed=7, candidate_score=None)
    gates.add_pairs(store, lease, gate, [PAIR, void])
    gates.add_pairs(store, lease, gate, [PAIR, void, crash])
    assert gates.pairs_of(store, gate) == [PAIR, void, crash]
    assert gates.last_verdict(store) is None
    lost = Leg(state="failed", role="earlier", reference="v0", n=3, losses=3, interval=(-1.0, -0.25), wealth=float("inf"), need=20.0)
    legs = {ADD: replace(lost, wealth=None)}  # JSON has no word for infinity
    result = gate_result("reject", gate=gate, reason="it lost 1.0", environments={ADD: lost}, pooled=Leg(state="failed", n=3))
    for _ in range(2):
        gates.close_gate(store, lease, result)
    found = gates.last_verdict(store)
    assert found == gates.get_gate(store, gate)
    assert found is not None
    assert (found.verdict, found.result, found.terms) == (
        "reject",
        replace(result, evidence=replace(result.evidence, environments=legs)),
        TERMS,
    )
    assert gates.gates_of(store, "v1") == [found]
    assert found.as_json()["verdict"] == "reject"


def test_a_closed_gate_stays_as_it_is(store: Store, lease: Lease) -> None:
    gate = gates.start_gate(store, lease, "v1", "v0", "standard", TERMS)
    gates.close_gate(store, lease, gate_result("inconclusive", gate=gate))
    with pytest.raises(RuntimeFailure, match="closed with the verdict inconclusive"):
        gates.close_gate(store, lease, gate_result("promote", gate=gate))
    with pytest.raises(RuntimeFailure, match="closed with the verdict inconclusive"):
        gates.add_pairs(store, lease, gate, [PAIR])


def test_settings_are_fixed_before_the_first_pair(store: Store, lease: Lease) -> None:
    gates.start_gate(store, lease, "v1", "v0", "standard", TERMS)
    with pytest.raises(RuntimeFailure, match="other settings"):
        gates.start_gate(store, lease, "v1", "v0", "standard", replace(TERMS, nmax=96))


def test_a_pair_is_not_rewritten_and_its_seed_not_used_again(store: Store, lease: Lease) -> None:
    gate = gates.start_gate(store, lease, "v1", "v0", "standard", TERMS)
    gates.add_pairs(store, lease, gate, [PAIR])
    with pytest.raises(RuntimeFailure, match="draw 0 of perdure:add is already stored with different scores"):
        gates.add_pairs(store, lease, gate, [dataclasses.replace(PAIR, candidate_score=1.0, difference=0.0)])
    assert gates.seed_used(store, ADD, "earlier", "v0", PAIR.seed)
    assert not gates.seed_used(store, ADD, "trained", "v0", PAIR.seed)
    fresh = dataclasses.replace(PAIR, draw=1, seed=9)
    with pytest.raises(RuntimeFailure, match="was used before against v0"):
        gates.add_pairs(store, lease, gate, [fresh, dataclasses.replace(PAIR, draw=2)])
    assert gates.pairs_of(store, gate) == [PAIR], "all pairs of a call or none"


def test_a_job_that_is_taken_over_gates_again(store: Store, clock, lease: Lease) -> None:
    gate = gates.start_gate(store, lease, "v1", "v0", "standard", TERMS)
    clock.now += 1000
    leased = jobs.lease_job(store, "next", 60, clock)
    assert leased is not None
    with pytest.raises(LeaseLost):
        gates.add_pairs(store, lease, gate, [PAIR])
    with pytest.raises(LeaseLost):
        gates.close_gate(store, lease, gate_result(gate=gate))
    with pytest.raises(InputError, match="attempt 1, not to job 1, attempt 2"):
        gates.add_pairs(store, leased[1], gate, [PAIR])
    with pytest.raises(InputError, match="attempt 1, not to job 1, attempt 2"):
        gates.close_gate(store, leased[1], gate_result(gate=gate))
    assert gates.start_gate(store, leased[1], "v1", "v0", "standard", TERMS) != gate


def test_a_gate_that_is_not_there(store: Store) -> None:
    with pytest.raises(UnknownError, match="no gate 3"):
        gates.get_gate(store, 3)
