"""What the store knows of how an environment went."""

from __future__ import annotations

from tests.memory.conftest import ADD, Player, SetClock
from tests.memory.trajectories.test_traces import learned, leased, live

from perdure.memory import jobs
from perdure.memory.records import Lease, StepRef
from perdure.memory.store import Store
from perdure.memory.trajectories import journal
from perdure.memory.trajectories.play_records import NOTHING_PLAYED, PlayRecord, record_before_job, records_of_job


def record(groups: int, episodes: int, successes: int) -> PlayRecord:
    """Each episode of the player has a prompt of 3 tokens and an answer of 2."""
    return PlayRecord(groups=groups, episodes=episodes, successes=successes, tokens=5 * episodes)


def test_live_play_counts_until_the_job_plays(store: Store, player: Player, clock: SetClock) -> None:
    assert record_before_job(store, ADD, 1, 48) == NOTHING_PLAYED
    live(player, "a", [1.0, 0.0])
    live(player, "b", [1.0, 1.0, 0.0])
    lease = leased(store, clock)
    assert record_before_job(store, ADD, lease.subject, 48) == record(2, 5, 3)
    learned(player, lease, "c", 0, [0.0])
    live(player, "d", [1.0])
    assert record_before_job(store, ADD, lease.subject, 48) == record(2, 5, 3), "a resumed job counts the same"
    assert record_before_job(store, ADD, lease.subject, 2) == record(1, 2, 1), "the newest"
    assert record_before_job(store, "another", lease.subject, 48) == NOTHING_PLAYED


def test_a_job_counts_each_of_its_steps_before_this_one(store: Store, player: Player, clock: SetClock) -> None:
    lease = leased(store, clock)
    learned(player, lease, "a", 0, [1.0, 0.0])
    player.group(lease, "b", [1.0, 1.0], purpose="replay", sampler=StepRef(lease.subject, 0))
    learned(player, lease, "c", 2, [0.0])
    learned(player, lease, "d", 3, [1.0])
    assert records_of_job(store, lease.subject, 3) == {ADD: [record(2, 4, 3), record(1, 1, 0)]}
    assert records_of_job(store, lease.subject, 0) == {}


def test_of_a_step_that_was_played_again_the_latest_attempt_counts(store: Store, player: Player, clock: SetClock) -> None:
    first = leased(store, clock)
    learned(player, first, "a", 0, [1.0, 1.0])
    learned(player, first, "b", 1, [0.0, 0.0])
    jobs.release_job(store, first)
    found = jobs.lease_job(store, "another", 60, clock)
    assert found is not None
    learned(player, found[1], "c", 1, [1.0])
    assert records_of_job(store, first.subject, 2) == {ADD: [record(1, 2, 2), record(1, 1, 1)]}


def test_a_conversation_counts_once_whatever_number_of_turns_it_has(store: Store, player: Player, clock: SetClock) -> None:
    """A prompt of 3, an answer of 2, 4 tokens of the next question, an answer of 1."""
    lease: Lease = player.task()
    writer = journal.StoreJournal(store, clock)
    [episode] = writer.start([player.plan(lease, "a")])
    writer.turns([(episode, 0, player.turn())])
    writer.turns([(episode, 1, player.turn(prompt=(1, 2, 3, 4, 5, 6, 7, 8, 9), action=(7,), shared=5))])
    writer.finish([player.ending(episode)])
    assert record_before_job(store, ADD, 1, 48) == PlayRecord(groups=1, episodes=1, successes=1, tokens=10)
