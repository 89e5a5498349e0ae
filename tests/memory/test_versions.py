"""Versions: names, the serving pointer, rollback, anchors."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from tests.results import TERMS, gate_result

from perdure.memory import environments, gates, jobs, versions
from perdure.memory.contracts.orders import GateOrder, LearnOrder
from perdure.memory.environments import anchor_of
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure, UnknownError
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.processes import events
from perdure.memory.records import Decision
from perdure.memory.store import Store, open_store

ADD = "perdure:add"
SORT = "perdure:sort?numbers=3"


def states(store: Store) -> dict[str, str]:
    return {version.name: version.state for version in versions.list_versions(store)}


def gated(store: Store, clock, candidate: str, verdict: Decision) -> int:
    jobs.add_job(store, f"gate {candidate}", [], GateOrder(candidate=candidate))
    leased = jobs.lease_job(store, "gater", 60, clock)
    assert leased is not None
    _, lease = leased
    gate = gates.start_gate(store, lease, candidate, versions.serving(store).name, "standard", TERMS)
    result = gate_result(verdict, gate=gate, candidate=candidate)
    gates.close_gate(store, lease, result)
    jobs.finish_job(store, lease, result, candidate)
    return gate


def test_the_base_model_serves_first(store: Store) -> None:
    first = versions.serving(store)
    assert (first.name, first.parent, first.path, first.hash, first.state) == ("v0", None, None, "hash-of-tiny", "serving")
    assert versions.add_initial(store, "tiny", "hash-of-tiny") == first
    assert [move.kind for move in versions.moves(store)] == ["initial"]
    with pytest.raises(InputError, match=r"began with other files of 'tiny' \(hash hash-of-tiny, now other\): restore them"):
        versions.add_initial(store, "tiny", "other")
    with pytest.raises(InputError, match="belong to the model 'tiny', not to 'large'"):
        versions.add_initial(store, "large", "hash-of-large")


def test_names_are_never_used_again(store: Store, add_version) -> None:
    assert add_version() == "v1"
    (store.home / "versions" / "v2.part").mkdir()
    assert versions.next_name(store) == "v3"
    with pytest.raises(InputError, match=r"'v1' belongs to another version.*'v3'"):
        versions.add_candidate(store, None, "v1", "v0", "other", "versions/v1", [], None)


def test_a_reserved_name_is_not_given_twice(store: Store, add_version) -> None:
    add_version()
    taken: list[str] = []
    together = threading.Barrier(4)

    def take() -> None:
        with open_store(store.home) as own:
            together.wait()
            taken.extend(versions.reserve_name(own) for _ in range(25))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken, key=lambda name: int(name[1:])) == [f"v{n}" for n in range(2, 102)]


def test_adding_a_candidate_twice_gives_it_once(store: Store, add_version) -> None:
    name = add_version(targets=(ADD, SORT))
    version = versions.add_candidate(store, None, name, "v0", f"hash-of-{name}", f"versions/{name}", (ADD, SORT), None)
    assert version == versions.get_version(store, name)
    assert version.targets == (ADD, SORT)
    assert states(store) == {"v1": "candidate", "v0": "serving"}
    assert list(versions.as_json(version))[:5] == ["name", "state", "parent", "created", "hash"]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..", "-rf", "V1", "a/b", "v\n1", "é", "a" * 65, ""])
def test_a_name_that_is_a_path_or_worse_is_refused(store: Store, name: str) -> None:
    with pytest.raises(InputError, match="cannot name a version"):
        versions.add_candidate(store, None, name, "v0", "h", None, [], None)


def test_a_row_never_names_a_folder_that_is_not_there(store: Store) -> None:
    with pytest.raises(RuntimeFailure, match="is missing"):
        versions.add_candidate(store, None, "v1", "v0", "h", "versions/v1", [], None)
    for path in ("/etc", "../elsewhere"):
        with pytest.raises(InputError, match="relative to the home"):
            versions.add_candidate(store, None, "v1", "v0", "h", path, [], None)
    with pytest.raises(UnknownError, match="no version 'v9'"):
        versions.add_candidate(store, None, "v1", "v9", "h", None, [], None)
    assert states(store) == {"v0": "serving"}


def test_a_learner_that_lost_its_lease_adds_no_candidate(store: Store, clock) -> None:
    jobs.add_job(store, "k", [ADD], LearnOrder(learner="grpo"))
    leased = jobs.lease_job(store, "learner", 60, clock)
    assert leased is not None
    clock.now += 100
    jobs.lease_job(store, "next", 60, clock)
    with pytest.raises(LeaseLost):
        versions.add_candidate(store, leased[1], "v1", "v0", "h", None, [ADD], leased[0].id)
    with pytest.raises(LeaseLost):
        versions.promote(store, "v0", "why not", lease=leased[1])


def test_a_promotion_moves_everything_at_once(store: Store, clock, add_version) -> None:
    gate = gated(store, clock, add_version(), "promote")
    version = versions.promote(store, "v1", "it holds", gate=gate)
    assert version.state == "serving"
    assert states(store) == {"v1": "serving", "v0": "retired"}
    last = versions.moves(store)[-1]
    assert (last.kind, last.from_version, last.to_version, last.gate, last.reason) == ("promote", "v0", "v1", gate, "it holds")
    assert (anchor_of(store, ADD), anchor_of(store, SORT)) == ("v1", "v0")
    assert versions.promote(store, "v1", "it holds", gate=gate) == version, "once more changes nothing"
    assert len(versions.moves(store)) == 2


FAILING_PROMOTER = """
import sys
from pathlib import Path
from perdure.memory import versions
from perdure.memory.store import open_store
store = open_store(Path(sys.argv[1]))
with store.write() as conn:
    versions.promote(store, "v1", "never seen")
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.processes
def test_a_promotion_cut_off_never_happened(store: Store, add_version) -> None:
    add_version()
    done = subprocess.run([sys.executable, "-c", FAILING_PROMOTER, str(store.home)], timeout=60)
    assert done.returncode == -9
    assert states(store) == {"v1": "candidate", "v0": "serving"}
    assert len(versions.moves(store)) == 1
    assert environments.list_environments(store)[0].anchor is None
    versions.promote(store, "v1", "now")


def test_only_one_version_can_serve(store: Store, add_version) -> None:
    add_version()
    with pytest.raises(sqlite3.IntegrityError), store.write() as conn:
        conn.execute("UPDATE version SET state = 'serving'")


def test_a_rejected_candidate_never_serves(store: Store, clock, add_version) -> None:
    gate = gated(store, clock, add_version(), "reject")
    with pytest.raises(InputError, match="has the verdict reject on v1"):
        versions.promote(store, "v1", "please", gate=gate)
    versions.reject(store, "v1")
    versions.reject(store, "v1")
    for move in (lambda: versions.promote(store, "v1", "please"), lambda: versions.rollback(store, "v1", "please")):
        with pytest.raises(InputError, match=r"v1 (was|is) rejected"):
            move()
    with pytest.raises(InputError, match="v0 is serving"):
        versions.reject(store, "v0")
    assert states(store) == {"v1": "rejected", "v0": "serving"}


def test_a_gate_lets_only_its_candidate_serve_and_only_after_the_version_it_saw(store: Store, clock, add_version) -> None:
    gate = gated(store, clock, add_version(), "promote")
    add_version()
    with pytest.raises(InputError, match="on v1: it does not promote v2"):
        versions.promote(store, "v2", "borrowed", gate=gate)
    versions.promote(store, "v2", "by hand")
    with pytest.raises(InputError, match="compared v1 with v0, but now v2 serves"):
        versions.promote(store, "v1", "late", gate=gate)
    with pytest.raises(UnknownError, match="no gate 9"):
        versions.promote(store, "v1", "late", gate=9)


def test_rollback_goes_back_step_by_step(store: Store, add_version) -> None:
    for _ in range(3):
        versions.promote(store, add_version(versions.serving(store).name), "better")
    assert versions.rollback(store, None, "harm").name == "v2"
    assert versions.rollback(store, None, "harm").name == "v1"
    assert versions.rollback(store, None, "harm").name == "v0"
    with pytest.raises(InputError, match="v0 is the first version"):
        versions.rollback(store, None, "harm")
    assert states(store) == {"v3": "retired", "v2": "retired", "v1": "retired", "v0": "serving"}
    assert versions.rollback(store, "v3", "it was fine").name == "v3"
    assert versions.rollback(store, None, "it was not").name == "v0"


def test_after_a_rollback_the_way_back_skips_what_was_left(store: Store, add_version) -> None:
    versions.promote(store, add_version(), "better")
    versions.rollback(store, None, "harm")
    versions.promote(store, add_version(), "better")
    assert versions.serving(store).name == "v2"
    assert versions.rollback(store, None, "harm").name == "v0", "not v1, which did harm"


def test_rollback_only_goes_to_what_served(store: Store, add_version) -> None:
    add_version()
    with pytest.raises(InputError, match="v1 is candidate and never served"):
        versions.rollback(store, "v1", "harm")
    with pytest.raises(InputError, match="v0 serves already"):
        versions.rollback(store, "v0", "harm")
    with pytest.raises(UnknownError):
        versions.rollback(store, "v7", "harm")
    with pytest.raises(InputError, match="--reason"):
        versions.promote(store, "v1", " ")


def test_an_anchor_stays_until_it_is_raised(store: Store, add_version) -> None:
    versions.promote(store, add_version(), "better")
    versions.promote(store, add_version("v1"), "held")
    assert anchor_of(store, ADD) == "v1"
    versions.promote(store, add_version("v2"), "much better", anchors=[ADD])
    assert anchor_of(store, ADD) == "v3"


def test_an_environment_added_later_is_anchored_at_what_served_then(store: Store, add_version) -> None:
    versions.promote(store, add_version(), "better")
    environments.register(store, "perdure:late")
    versions.promote(store, add_version("v1"), "better")
    assert anchor_of(store, "perdure:late") == "v1"
    assert anchor_of(store, ADD) == "v1"
    assert anchor_of(store, SORT) == "v0"


def test_after_a_rollback_no_anchor_asks_for_what_was_left(store: Store, add_version) -> None:
    versions.promote(store, add_version(targets=(ADD,)), "better")
    versions.promote(store, add_version("v1", targets=(SORT,)), "better")
    assert (anchor_of(store, ADD), anchor_of(store, SORT)) == ("v1", "v2")
    versions.rollback(store, "v1", "harm")
    assert (anchor_of(store, ADD), anchor_of(store, SORT)) == ("v1", "v1")
    assert events(store)[0].message == f"from v2: harm; loses what was learned in {SORT}"


def test_environments_keep_their_anchor_when_registered_again(store: Store, add_version) -> None:
    versions.promote(store, add_version(targets=(ADD,)), "better")
    environments.register(store, ADD, 0.5, 0.0, 2.0, critical=True)
    first = environments.list_environments(store)[0]
    assert first.as_json() == {
        "name": ADD,
        "threshold": 0.5,
        "reward_low": 0.0,
        "reward_high": 2.0,
        "critical": True,
        "anchor": "v1",
        "code": None,
        "changed": None,
        "retired": None,
    }
    with pytest.raises(InputError, match=r"from 1\.0 to 1\.0"):
        environments.register(store, ADD, 0.5, 1.0, 1.0)


def test_pinning(store: Store) -> None:
    assert versions.pin(store, "v0").pinned
    assert not versions.pin(store, "v0", pinned=False).pinned


def test_no_gate_promotes_what_was_trained_from_a_version_that_was_rolled_back(store: Store, clock, add_version) -> None:
    bad = add_version()
    versions.promote(store, bad, "looked good")
    slow = add_version(parent=bad)
    child = add_version(parent=slow)
    assert versions.rolled_back_ancestor(store, child) is None
    versions.rollback(store, None, "it was not")
    assert versions.rolled_back_ancestor(store, child) == bad
    gate = gated(store, clock, child, "promote")
    with pytest.raises(InputError, match="v3 was trained from v1, which was rolled back"):
        versions.promote(store, child, "gate", gate=gate)
    assert versions.serving(store).name == "v0"
    assert versions.promote(store, child, "a person answers for it").state == "serving"


def test_a_gate_moves_the_anchors_that_it_names_and_no_others(store: Store, clock, add_version) -> None:
    def anchors() -> list[str | None]:
        return [row.anchor for row in environments.list_environments(store)]

    versions.promote(store, "v1", "it holds", gate=gated(store, clock, add_version(targets=(ADD, SORT)), "promote"), anchors=[])
    assert anchors() == [None, None], "not even those of its targets"
    versions.promote(store, add_version("v1", targets=(ADD,)), "a person answers for it")
    assert anchors() == ["v2", None]
    versions.promote(store, add_version("v2", targets=(ADD,)), "it rose where it was not trained", anchors=[SORT])
    assert anchors() == ["v2", "v3"]
