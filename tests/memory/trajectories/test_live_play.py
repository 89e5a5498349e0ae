"""Groups of live play for a job: which are found, in which order, and which count as learned from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.memory.conftest import ADD, SORT, Player, SetClock
from tests.memory.trajectories.test_traces import learned, leased

from perdure.memory import jobs, tasks, versions
from perdure.memory.errors import RuntimeFailure
from perdure.memory.records import Lease, StepRef, VersionRef
from perdure.memory.store import Store
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.trajectories.live_play import LiveGroup, live_groups, moves_since, taken_groups
from perdure.memory.trajectories.manifests import learned_elsewhere, manifests, write_manifest
from perdure.memory.trajectories.play_records import records_of_job


def done(player: Player, name: str, rewards: list[float], version: str = "v0") -> list[int]:
    """A task that was played to its end."""
    task = player.task()
    ids = player.group(task, name, rewards, sampler=VersionRef(version))
    tasks.finish_task(player.store, task)
    return ids


def found(store: Store, job: int = 1) -> list[LiveGroup]:
    return live_groups(store, ADD, job=job, temperature=1.0)


def episodes(groups: list[LiveGroup]) -> list[list[int]]:
    return [list(group.episodes) for group in groups]


def again(store: Store, clock: SetClock, lease: Lease) -> Lease:
    """The next attempt at the same job."""
    jobs.release_job(store, lease)
    leased_again = jobs.lease_job(store, "another", 60, clock)
    assert leased_again is not None
    return leased_again[1]


def test_the_newest_groups_come_first_whatever_their_rewards(store: Store, player: Player) -> None:
    first, second = done(player, "a", [0.0, 0.0, 0.0]), done(player, "b", [1.0, 0.0])
    third = done(player, "c", [1.0, 1.0])
    groups = found(store)
    assert episodes(groups) == [third, second, first]
    assert groups[0] == LiveGroup(environment=ADD, seed=7, version="v0", episodes=tuple(third), moves=0, is_learned=False)
    assert live_groups(store, SORT, job=1, temperature=1.0) == []
    assert live_groups(store, ADD, job=1, temperature=0.5) == []


def test_members_are_in_order_even_if_one_was_played_again(store: Store, player: Player, clock: SetClock) -> None:
    task = player.task()
    writer = StoreJournal(store, clock)
    late, early = writer.start([player.plan(task, "a", 1), player.plan(task, "a", 0)])
    writer.turns([(id_, 0, player.turn()) for id_ in (late, early)])
    writer.finish([player.ending(id_) for id_ in (late, early)])
    tasks.finish_task(store, task)
    assert episodes(found(store)) == [[early, late]]


def test_a_group_is_whole(store: Store, player: Player) -> None:
    """Neither of a task that is still played, nor of one episode, nor of another seat or purpose."""
    player.group(player.task(), "being played", [1.0, 0.0])
    done(player, "alone", [1.0])
    aborted = done(player, "aborted", [1.0, 0.0])
    store.rows("UPDATE episode SET state = 'aborted' WHERE id = ?", (aborted[0],))
    seated = done(player, "seated", [1.0, 0.0])
    store.rows("UPDATE episode SET seat = 1 WHERE id = ?", (seated[0],))
    assert found(store) == []
    whole = done(player, "whole", [1.0, 0.0, 1.0])
    store.rows("UPDATE episode SET state = 'env_error' WHERE id = ?", (whole[1],))
    assert episodes(found(store)) == [[whole[0], whole[2]]], "an episode that the environment spoilt is no data; its group is"


def test_a_group_of_two_versions_is_of_no_policy(store: Store, player: Player, add_version: Callable[..., str]) -> None:
    mixed = done(player, "mixed", [1.0, 0.0])
    store.rows("UPDATE episode SET version = ? WHERE id = ?", (add_version(), mixed[1]))
    assert found(store) == []


def test_what_was_played_before_the_environment_changed_is_left_out(store: Store, player: Player) -> None:
    done(player, "before", [1.0, 0.0])
    store.rows("UPDATE environment SET changed_at = ? WHERE name = ?", (time.time(), ADD))
    assert found(store) == []
    after = done(player, "after", [1.0, 0.0])
    assert episodes(found(store)) == [after]


def test_groups_are_as_old_as_moves_came_after(store: Store, player: Player, add_version: Callable[..., str]) -> None:
    done(player, "a", [1.0, 0.0])
    versions.promote(store, add_version(), "r")
    done(player, "b", [1.0, 0.0], "v1")
    assert [(group.version, group.moves) for group in found(store)] == [("v1", 0), ("v0", 1)]
    versions.rollback(store, None, "r")
    assert [(group.version, group.moves) for group in found(store)] == [("v1", 1), ("v0", 0)]
    assert (moves_since(store, "v0"), moves_since(store, "v1")) == (0, 1)


def test_a_job_that_begins_anew_finds_the_same_groups(store: Store, player: Player, clock: SetClock) -> None:
    before = done(player, "a", [1.0, 0.0])
    lease = leased(store, clock)
    player.group(lease, "check", [1.0], purpose="probe", sampler=StepRef(lease.subject, 0))
    after = done(player, "b", [1.0, 0.0])
    assert episodes(found(store, lease.subject)) == [before]
    assert episodes(found(store, lease.subject + 1)) == [after, before]


def test_what_another_job_learned_from_on_policy_is_marked(store: Store, player: Player, clock: SetClock) -> None:
    first, second = done(player, "a", [1.0, 0.0]), done(player, "b", [1.0, 0.0])
    lease = leased(store, clock)
    write_manifest(store, lease, 1, first, True, reused=second)
    marks = {group.episodes: group.is_learned for group in found(store, lease.subject + 1)}
    assert marks == {tuple(first): True, tuple(second): False}
    assert not any(group.is_learned for group in found(store, lease.subject)), "its own next attempt takes them again"
    assert learned_elsewhere(store, lease.subject + 1, first)
    assert not learned_elsewhere(store, lease.subject + 1, second)
    assert not learned_elsewhere(store, lease.subject, first)


def test_the_mark_of_an_update_moves_to_the_attempt_that_makes_it_anew(store: Store, player: Player, clock: SetClock) -> None:
    live = done(player, "a", [1.0, 0.0])
    first = leased(store, clock)
    write_manifest(store, first, 1, live, True)
    second = again(store, clock, first)
    write_manifest(store, second, 1, live, True)
    assert [(one.attempt, one.episodes, one.on_policy) for one in manifests(store, first.subject)] == [
        (1, tuple(live), False),
        (2, tuple(live), True),
    ]
    with pytest.raises(RuntimeFailure, match="cannot be in another one"):
        write_manifest(store, second, 2, live, True)


def test_taken_groups_are_those_in_the_store_and_used_if_an_update_had_them(store: Store, player: Player, clock: SetClock) -> None:
    first, second, third = (done(player, name, [1.0, 0.0]) for name in "abc")
    lease = leased(store, clock)
    write_manifest(store, lease, 1, third, True)
    write_manifest(store, lease, 2, second, False)
    ids = [*third, *second, *first, 999]
    assert [(list(group.episodes), group.is_used) for group in taken_groups(store, lease.subject, 1, ids)] == [
        (third, True),
        (second, False),
        (first, False),
    ], "the second update was not finished"
    assert [group.is_used for group in taken_groups(store, lease.subject, 2, ids)] == [True, True, False]
    assert [group.is_used for group in taken_groups(store, lease.subject, 0, ids)] == [False] * 3
    next_lease = again(store, clock, lease)
    write_manifest(store, next_lease, 2, first, False)
    assert [group.is_used for group in taken_groups(store, lease.subject, 2, ids)] == [True, False, True], "the latest attempt counts"


def test_live_groups_of_the_first_batch_count_as_play_of_the_job(store: Store, player: Player, clock: SetClock) -> None:
    live, reused = done(player, "a", [1.0, 1.0, 0.0]), done(player, "b", [1.0, 1.0])
    lease = leased(store, clock)
    fresh = learned(player, lease, "c", 0, [0.0])
    write_manifest(store, lease, 1, [*live, *fresh], True, reused=reused)
    [record] = records_of_job(store, lease.subject, 1)[ADD]
    assert (record.groups, record.episodes, record.successes) == (2, 4, 2)
    assert records_of_job(store, lease.subject, 0) == {}
    write_manifest(store, again(store, clock, lease), 1, live, True)
    assert records_of_job(store, lease.subject, 1)[ADD] == [replace(record, groups=1, episodes=3, successes=2, tokens=15)]
