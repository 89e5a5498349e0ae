"""Which versions keep their files."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from perdure.memory import jobs, versions
from perdure.memory.contracts.orders import GateOrder, LearnOrder, Order, PanelOrder, ProbeOrder
from perdure.memory.store import Store
from perdure.memory.upkeep import garbage as keeping

ADD = "perdure:add"

Learn = Callable[[str], str]


@pytest.fixture
def learn(store: Store) -> Learn:
    """A learning job that has ended, whose candidate was trained from this version; gives its name."""

    def made(parent: str) -> str:
        job = jobs.add_job(store, f"from {parent}: {versions.next_name(store)}", [ADD], LearnOrder(learner="grpo", start=parent))
        name = versions.reserve_name(store)
        versions.add_candidate(store, None, name, parent, f"hash-of-{name}", f"versions/{name}", [ADD], job)
        with store.write() as conn:
            conn.execute("UPDATE job SET state = 'done' WHERE id = ?", (job,))
        return name

    return made


def test_what_serves_what_served_and_what_goes_on_from_it_is_kept(store: Store, learn: Learn) -> None:
    first = learn("v0")
    versions.promote(store, first, "r")
    inconclusive = learn(first)
    learn(inconclusive)
    assert keeping.removable_versions(store) == {}
    versions.promote(store, inconclusive, "r")
    versions.rollback(store, first, "r")
    assert set(keeping.removable_versions(store)) == {"v3"}, "v2 served, and is kept whether or not the stack of moves still has it"


def test_rejected_versions_and_superseded_candidates_go(store: Store, learn: Learn) -> None:
    stale, rejected, better = learn("v0"), learn("v0"), learn("v0")
    later = learn(stale)
    versions.reject(store, rejected)
    assert keeping.removable_versions(store) == {rejected: "it was rejected"}
    versions.promote(store, better, "r")
    assert keeping.removable_versions(store) == {
        rejected: "it was rejected",
        stale: "it was made from v0, which no longer serves",
        later: "it was made from v0, which no longer serves",
    }
    versions.rollback(store, None, "r")
    assert keeping.removable_versions(store) == {rejected: "it was rejected"}


def test_parents_of_what_is_kept_are_kept(store: Store, learn: Learn, add_version) -> None:
    first = learn("v0")
    second = learn(first)
    other = learn("v0")
    versions.reject(store, first)
    versions.promote(store, other, "r")
    brought = add_version(parent="v0")
    assert set(keeping.removable_versions(store)) == {first, second}
    versions.pin(store, second)
    assert keeping.removable_versions(store) == {}
    versions.pin(store, second, False)
    with store.write() as conn:
        conn.execute("UPDATE environment SET anchor = ? WHERE name = ?", (first, ADD))
    assert set(keeping.removable_versions(store)) == {second}
    assert brought not in keeping.removable_versions(store)


@pytest.mark.parametrize(
    "order_of",
    [
        lambda name: LearnOrder(learner="grpo", start=name),
        lambda name: GateOrder(candidate=name),
        lambda name: ProbeOrder(version=name),
        lambda name: PanelOrder(version=name),
    ],
)
def test_what_a_job_is_about_to_use_is_kept(store: Store, clock, learn: Learn, order_of: Callable[[str], Order]) -> None:
    stale, better = learn("v0"), learn("v0")
    versions.promote(store, better, "r")
    assert set(keeping.removable_versions(store)) == {stale}
    jobs.add_job(store, "k", [], order_of(stale))
    assert keeping.removable_versions(store) == {}
    leased = jobs.lease_job(store, "learner", 60, clock)
    assert leased is not None
    jobs.fail_job(store, leased[1], "x")
    assert set(keeping.removable_versions(store)) == {stale}
