"""What is kept of a version's answers on held-out seeds: episodes of gates and probes, and pairs whose episodes were pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.memory.conftest import ADD, Player
from tests.results import TERMS, gate_result

from perdure.memory import gates, jobs
from perdure.memory.contracts.orders import GateOrder
from perdure.memory.evidence.answer_scores import answer_scores
from perdure.memory.records import EpisodePlan, Lease, Pair, Purpose, VersionRef
from perdure.memory.store import Store
from perdure.memory.trajectories.journal import StoreJournal

SEED = 2**31


@pytest.fixture
def lease(store: Store, clock, add_version) -> Lease:
    add_version()
    jobs.add_job(store, "k", [ADD], GateOrder(candidate="v1"))
    leased = jobs.lease_job(store, "gater", 60, clock)
    assert leased is not None
    return leased[1]


def play(player: Player, lease: Lease, seed: int, rewards: Sequence[float], *, purpose: Purpose = "gate", version: str = "v1") -> None:
    journal = StoreJournal(player.store, player.clock)
    plan = EpisodePlan(
        environment=ADD, seed=seed, group=f"{purpose}-{version}-{seed}", member=0, purpose=purpose, sampler=VersionRef(version),
        temperature=1.0, lease=lease,
    )  # fmt: skip
    ids = journal.start([replace(plan, member=member) for member in range(len(rewards))])
    journal.finish([player.ending(episode, reward) for episode, reward in zip(ids, rewards, strict=True)])


def found(store: Store, *versions: str) -> list[tuple[str, int, float]]:
    return [(answer.version, answer.seed, answer.score) for answer in answer_scores(store, versions)]


def close(store: Store, lease: Lease, *pairs: Pair) -> None:
    gate = gates.start_gate(store, lease, "v1", "v0", "standard", TERMS)
    gates.add_pairs(store, lease, gate, pairs)
    gates.close_gate(store, lease, replace(gate_result("promote", gate=gate), temperature=1.0, samples=4))


def pair(draw: int, reference: float | None, candidate: float | None) -> Pair:
    difference = None if reference is None else -1.0 if candidate is None else candidate - reference
    return Pair(
        environment=ADD, role="earlier", draw=draw, seed=SEED + draw, reference="v0",
        reference_score=reference, candidate_score=candidate, difference=difference,
    )  # fmt: skip


def test_every_answer_of_gates_and_probes_counts(store: Store, player: Player, lease: Lease) -> None:
    play(player, lease, SEED, [1.0, 0.0])
    play(player, lease, SEED, [1.0], purpose="probe", version="v0")
    play(player, lease, 5, [1.0], purpose="learn")
    assert found(store, "v0", "v1") == [("v1", SEED, 1.0), ("v1", SEED, 0.0), ("v0", SEED, 1.0)]
    assert found(store, "v0") == [("v0", SEED, 1.0)]
    assert found(store) == []


def test_pairs_stand_for_pruned_episodes_and_only_for_those(store: Store, player: Player, lease: Lease) -> None:
    """Seed 0 has its episodes of v1 still; a side that failed has no score."""
    play(player, lease, SEED, [1.0, 0.0])
    close(store, lease, pair(0, 0.25, 0.5), pair(1, 1.0, None), pair(2, None, None))
    assert found(store, "v0", "v1") == [("v1", SEED, 1.0), ("v1", SEED, 0.0), ("v0", SEED, 0.25), ("v0", SEED + 1, 1.0)]
    assert {answer.temperature for answer in answer_scores(store, ["v0"])} == {1.0}


def test_pairs_of_an_open_gate_do_not_count(store: Store, lease: Lease) -> None:
    gate = gates.start_gate(store, lease, "v1", "v0", "standard", TERMS)
    gates.add_pairs(store, lease, gate, [pair(0, 0.25, 0.5)])
    assert found(store, "v0", "v1") == []


def test_what_was_played_before_an_environment_changed_does_not_count(store: Store, player: Player, lease: Lease, add_version) -> None:
    play(player, lease, SEED, [1.0])
    close(store, lease, pair(1, 0.25, 0.5))
    showed_it = gates.start_gate(store, lease, add_version(), "v0", "standard", TERMS)
    with store.write() as conn:
        conn.execute("UPDATE environment SET changed_at = 9e9, first_gate = ? WHERE name = ?", (showed_it, ADD))
    assert found(store, "v0", "v1") == []
