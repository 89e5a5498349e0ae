"""Stored episodes that are learned from again: which are found, in which order, and how stale they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.memory.conftest import ADD, SORT, Player, SetClock

from perdure.memory import jobs, versions
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.errors import UnknownError
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.records import Lease, StepRef, VersionRef
from perdure.memory.store import Store
from perdure.memory.trajectories.traces import Trace, episodes_of_step, foreign_traces, job_traces, live_traces, recent_groups


def staleness(traces: list[Trace]) -> dict[int, int]:
    return {trace.episode.id: trace.staleness for trace in traces}


def live(player: Player, group: str, rewards: list[float], version: str = "v0") -> list[int]:
    return player.group(player.task(), group, rewards, sampler=VersionRef(version))


def leased(store: Store, clock: SetClock) -> Lease:
    jobs.add_job(store, f"job {len(jobs.list_jobs(store))}", [ADD], LearnOrder(learner="grpo"))
    found = jobs.lease_job(store, "learner", 60, clock)
    assert found is not None
    return found[1]


def learned(player: Player, lease: Lease, group: str, step: int, rewards: list[float]) -> list[int]:
    return player.group(lease, group, rewards, purpose="learn", sampler=StepRef(lease.subject, step))


def test_live_episodes_are_as_stale_as_promotions_came_after(store: Store, player: Player, add_version: Callable[..., str]) -> None:
    first = live(player, "a", [1.0])
    versions.promote(store, add_version(), "r")
    second = live(player, "b", [1.0], "v1")
    assert staleness(list(live_traces(store, [ADD], 0))) == {second[0]: 0}
    versions.promote(store, add_version(), "r")
    third = live(player, "c", [1.0], "v2")
    found = list(live_traces(store, [ADD], 9))
    assert staleness(found) == {third[0]: 0, second[0]: 1, first[0]: 2}
    assert [trace.episode.id for trace in found] == [*third, *second, *first], "the newest first"
    assert staleness(list(live_traces(store, [ADD], 1))) == {third[0]: 0, second[0]: 1}


def test_a_rollback_makes_what_serves_again_fresh_and_the_other_stale(
    store: Store, player: Player, add_version: Callable[..., str]
) -> None:
    first = live(player, "a", [1.0])
    versions.promote(store, add_version(), "r")
    second = live(player, "b", [1.0], "v1")
    versions.rollback(store, None, "r")
    assert staleness(list(live_traces(store, [ADD], 9))) == {first[0]: 0, second[0]: 1}
    versions.promote(store, add_version(), "r")
    third = live(player, "c", [1.0], "v2")
    assert staleness(list(live_traces(store, [ADD], 9))) == {third[0]: 0, first[0]: 1, second[0]: 2}


def test_live_traces_are_live_completed_and_of_our_own_seat(store: Store, clock: SetClock, player: Player) -> None:
    task = player.task()
    played = player.group(task, "a", [1.0, 0.0, 1.0, 1.0])
    mine = leased(store, clock)
    for purpose in ("gate", "probe"):
        player.group(mine, purpose, [1.0], purpose=purpose)
    learned(player, mine, "g", 0, [1.0])
    player.group(mine, "r", [1.0], purpose="replay", sampler=StepRef(mine.subject, 0))
    store.rows("UPDATE episode SET seat = 1 WHERE id = ?", (played[2],))
    store.rows("UPDATE episode SET state = 'aborted' WHERE id = ?", (played[3],))
    assert [trace.episode.id for trace in list(live_traces(store, [ADD, SORT], 0))] == [played[1], played[0]], (
        "failures too: rewards decide later"
    )
    assert list(live_traces(store, [SORT], 0)) == []
    assert list(live_traces(store, [], 0)) == []


def test_episodes_of_a_job_are_as_stale_as_updates_came_after(store: Store, clock: SetClock, player: Player) -> None:
    mine = leased(store, clock)
    played = [learned(player, mine, f"g{step}", step, [1.0, 0.0]) for step in range(3)]
    assert staleness(list(job_traces(store, mine.subject, [ADD], 9))) == {
        episode: 2 - step for step, episodes in enumerate(played) for episode in episodes
    }
    assert [trace.episode.id for trace in list(job_traces(store, mine.subject, [ADD], 0))] == played[2][::-1]
    assert list(job_traces(store, mine.subject, [SORT], 9)) == [], "it has played, but not there"
    player.group(mine, "check", [1.0], purpose="probe", sampler=StepRef(mine.subject, 3))
    assert [trace.episode.id for trace in list(job_traces(store, mine.subject, [ADD], 0))] == played[2][::-1], "a check is no trace"
    assert episodes_of_step(store, mine.subject, 3, hinted=False) == []


def test_of_a_job_neither_hinted_replayed_nor_judging_episodes_are_traces(store: Store, clock: SetClock, player: Player) -> None:
    mine = leased(store, clock)
    plain = learned(player, mine, "job-1.1-0", 0, [1.0, 1.0])
    shown = player.group(mine, "job-1.1-1", [1.0], purpose="hinted", sampler=StepRef(mine.subject, 0))
    player.group(mine, "old", [1.0], purpose="replay", sampler=StepRef(mine.subject, 0))
    player.group(mine, "gate-1", [1.0], purpose="gate", sampler=VersionRef("v0"))
    store.rows("UPDATE episode SET seat = 1 WHERE id = ?", (plain[1],))
    assert [trace.episode.id for trace in list(job_traces(store, mine.subject, [ADD], 9))] == plain[:1]
    assert [episode.id for episode in episodes_of_step(store, mine.subject, 0, hinted=False)] == plain[:1]
    assert [episode.id for episode in episodes_of_step(store, mine.subject, 0, hinted=True)] == shown
    assert episodes_of_step(store, mine.subject, 1, hinted=False) == []


def test_a_step_is_read_back_as_the_latest_attempt_played_it(store: Store, clock: SetClock, player: Player) -> None:
    mine = leased(store, clock)
    learned(player, mine, "job-1.1-0", 0, [1.0])
    clock.now += 1000
    again = jobs.lease_job(store, "next", 60, clock)
    assert again is not None
    second = learned(player, again[1], "job-1.2-0", 0, [0.0])
    assert [episode.id for episode in episodes_of_step(store, mine.subject, 0, hinted=False)] == second


def test_a_job_that_played_nothing_is_unknown(store: Store, clock: SetClock, player: Player) -> None:
    mine = leased(store, clock)
    for job in (mine.subject, 99):
        with pytest.raises(UnknownError, match=f"job {job} has played nothing to learn from"):
            list(job_traces(store, job, [ADD], 9))


def test_recent_groups_are_whole_and_the_newest_first(store: Store, clock: SetClock, player: Player) -> None:
    groups = [live(player, name, [1.0, 0.0]) for name in ("a", "b", "c")]
    mine = leased(store, clock)
    player.group(mine, "gate", [1.0], purpose="gate")
    learned(player, mine, "g", 0, [1.0])
    found = recent_groups(store, ADD, 2)
    assert [sorted(episode.id for episode in group) for group in found] == [groups[2], groups[1]]
    assert recent_groups(store, SORT, 2) == []
    store.rows("UPDATE episode SET seat = 1 WHERE id = ?", (groups[2][1],))
    assert [[episode.id for episode in group] for group in recent_groups(store, ADD, 1)] == [groups[2][:1]]


def test_imported_episodes_come_with_what_their_pipeline_kept(store: Store, tmp_path: Path) -> None:
    said = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1 + 1?"}]
    rows = [
        {"environment": "sums", "turns": [{"observation": "1 + 1?", "action": "2", "reward": 1.0}]},
        {
            "environment": "sums",
            "base_model": "tiny",
            "base_hash": "hash-of-tiny",
            "success": False,
            "turns": [{"messages": said, "action": "3"}, {"prompt_ids": [1, 2], "action_ids": [3]}],
        },
    ]
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_file(store, file, "desk")
    second, first = foreign_traces(store, "desk")
    assert (first.environment, first.base_model, first.success, first.total_reward) == ("sums", None, None, 1.0)
    (turn,) = first.turns
    assert (turn.observation, turn.action, turn.messages, turn.prompt_ids, turn.action_ids) == ("1 + 1?", "2", None, None, None)
    assert (second.base_model, second.base_hash, second.success) == ("tiny", "hash-of-tiny", False)
    assert second.turns[0].messages == tuple(said)
    assert (second.turns[1].prompt_ids, second.turns[1].action_ids, second.turns[1].action) == ((1, 2), (3,), None)
    with pytest.raises(UnknownError, match="nothing was imported as 'other'; there is desk"):
        foreign_traces(store, "other")


def test_without_an_import_there_is_none_to_learn_from(store: Store) -> None:
    with pytest.raises(UnknownError, match="there is no import yet: see `perdure store import`"):
        foreign_traces(store, "desk")
