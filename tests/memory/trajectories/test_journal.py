"""The journal: every token as it was sampled, once, whatever happens to the process."""

from __future__ import annotations

import dataclasses
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.memory import jobs, tasks
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure
from perdure.memory.layout import blobs
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.leases import BootClock
from perdure.memory.records import StepRef
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import get_episode, list_episodes
from perdure.memory.trajectories.journal import StoreJournal, abort_orphans

ADD = "perdure:add"


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def test_an_episode_of_many_turns_reads_back_token_for_token(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(player.task(), "g")])
    history: tuple[int, ...] = tuple(range(100, 140))
    turns = []
    for n in range(5):
        turn = dataclasses.replace(
            player.turn(history, (7 * n, 2**31 - 1, 0), shared=len(history) - 2 if n else 0),
            logprobs=tuple(float32(-0.1 * k) for k in range(3)),
            observation=f"now {n}\0é\n",
        )
        writer.turns([(episode, n, turn)])
        turns.append(turn)
        history = (*turn.prompt_ids, *turn.action_ids, 200 + n, 300 + n)
    writer.finish([player.ending(episode)])
    kept = get_episode(store, episode)
    assert kept.turns == tuple(turns)
    assert (kept.state, kept.success, kept.score, kept.total_reward, kept.stop_reason) == ("completed", True, 1.0, 1.0, "terminated")
    assert kept.task is not None
    assert kept.job is None


def test_a_prompt_is_stored_once(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(player.task(), "g")])
    writer.turns([(episode, 0, player.turn((1, 2, 3), (4, 5)))])
    writer.turns([(episode, 1, player.turn((1, 2, 3, 4, 5, 6), (7,), shared=5))])
    rows = store.rows(
        "SELECT n, shared, token_ids(prompt_ids) AS prompt, token_ids(action_ids) AS action, logprobs(logprobs) AS logprobs FROM turn"
    )
    assert [tuple(row) for row in rows] == [(0, 0, "[1, 2, 3]", "[4, 5]", "[-0.5, -1.0]"), (1, 5, "[6]", "[7]", "[-0.5]")]
    (row,) = store.rows("SELECT prompt_tokens, action_tokens, sampler FROM turn_text WHERE n = 1")
    assert tuple(row) == (6, 1, "v0")


@pytest.mark.parametrize("second", [(1, 2, 9, 9, 9, 9, 9), (1, 2), (8,), (1, 2, 3, 4, 5)], ids=["parts", "shorter", "nothing", "no more"])
def test_a_prompt_that_does_not_continue_the_last_turn_is_kept_as_it_was(store: Store, clock, player, second) -> None:
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(player.task(), "g")])
    turns = [player.turn((1, 2, 3), (4, 5)), player.turn(second, (6,)), player.turn((*second, 6, 1), (2,), shared=len(second) + 1)]
    for n, turn in enumerate(turns):
        writer.turns([(episode, n, turn)])
    assert list(get_episode(store, episode).turns) == turns


@pytest.mark.parametrize(
    ("prompt", "shared"), [((1, 2, 3, 4, 5, 6), 4), ((1, 2, 3, 4, 5, 6), 6), ((1, 2, 3, 9, 5, 6), 5), ((1, 2, 3, 4), 5)]
)
def test_a_prompt_that_goes_on_otherwise_than_it_says_is_refused(store: Store, clock, player, prompt, shared) -> None:
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(player.task(), "g")])
    with pytest.raises(InputError, match="turn 0 of episode 1 shares 1 tokens"):
        writer.turns([(episode, 0, player.turn(shared=1))])
    writer.turns([(episode, 0, player.turn((1, 2, 3), (4, 5)))])
    with pytest.raises(InputError, match=f"turn 1 of episode 1 shares {shared} tokens with the turn before it, but does not continue"):
        writer.turns([(episode, 1, player.turn(prompt, (7,), shared=shared))])
    assert len(get_episode(store, episode).turns) == 1


def test_a_turn_out_of_order_is_refused_and_history_stays(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(player.task(), "g")])
    first = dataclasses.replace(player.turn(), logprobs=(-0.1, -0.2))
    writer.turns([(episode, 0, first), (episode, 1, player.turn((1, 2, 3, 4, 5, 6)))])
    for n in (0, 1, 3):
        with pytest.raises(RuntimeFailure, match=f"turn {n} of episode 1 is out of order: turn 2 comes next"):
            writer.turns([(episode, n, player.turn())])
    assert get_episode(store, episode).turns[0].logprobs == (float32(-0.1), float32(-0.2))
    assert len(get_episode(store, episode).turns) == 2


def test_turns_that_were_refused_leave_the_episode_as_it_was(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(player.task(), "g")])
    for n in range(2):
        with pytest.raises(InputError, match="log-probs"):
            writer.turns([(episode, n, dataclasses.replace(player.turn(), logprobs=()))])
        writer.turns([(episode, n, player.turn(tuple(range(n + 1))))])
    assert len(get_episode(store, episode).turns) == 2


def test_the_store_refuses_a_second_row_of_a_turn_and_a_second_completion_of_a_member(store: Store, clock, player) -> None:
    """Whatever a confused process writes: the indexes hold, without the journal."""
    first, second = player.group(player.task(), "g", [1.0, 1.0])
    with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE constraint failed: turn\.episode, turn\.n"):
        store.rows("INSERT INTO turn SELECT * FROM turn WHERE episode = ?", (first,))
    with pytest.raises(sqlite3.IntegrityError, match=r"UNIQUE constraint failed: episode\.group, episode\.member"):
        store.rows("UPDATE episode SET member = 0 WHERE id = ?", (second,))


def test_a_generation_batch_is_kept_or_lost_together(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    lease = player.task()
    left, right = writer.start([player.plan(lease, "g", 0), player.plan(lease, "g", 1)])
    with pytest.raises(InputError, match="2 tokens, but 1 log-probs"):
        writer.turns([(left, 0, player.turn()), (right, 0, dataclasses.replace(player.turn(), logprobs=(-1.0,)))])
    assert get_episode(store, left).turns == ()
    writer.turns([(left, 0, player.turn()), (right, 0, player.turn())])
    assert len(get_episode(store, left).turns) == 1


def test_a_turn_of_an_episode_that_has_ended_is_refused_with_its_whole_batch(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    lease = player.task()
    first, again, other = writer.start([player.plan(lease, "g", 0), player.plan(lease, "g", 0), player.plan(lease, "g", 1)])
    writer.finish([player.ending(again)])
    with pytest.raises(RuntimeFailure, match="episode 1 has ended: a turn of it came too late"):
        writer.turns([(other, 0, player.turn()), (first, 0, player.turn())])
    assert (get_episode(store, first).state, get_episode(store, first).turns) == ("aborted", ())
    assert get_episode(store, other).turns == ()


def test_one_call_may_hold_several_turns_of_an_episode(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(player.task(), "g")])
    first, second = player.turn(), player.turn((1, 2, 3, 4, 5, 6))
    with pytest.raises(RuntimeFailure, match="turn 0 of episode 1 is out of order: turn 2 comes next"):
        writer.turns([(episode, 0, first), (episode, 1, second), (episode, 0, first)])
    assert get_episode(store, episode).turns == ()
    writer.turns([(episode, 0, first), (episode, 1, second)])
    assert get_episode(store, episode).turns == (first, second)
    assert list_episodes(store)[0].turns == 2
    writer.finish([player.ending(episode)])
    assert list_episodes(store)[0].turns == 2


def test_a_turn_names_the_step_that_sampled_it(store: Store, clock, player) -> None:
    jobs.add_job(store, "k", [ADD], LearnOrder(learner="grpo"))
    leased = jobs.lease_job(store, "learner", 60, clock)
    assert leased is not None
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(leased[1], "g", purpose="learn", sampler=StepRef(leased[0].id, 3))])
    turn = dataclasses.replace(player.turn(), sampler=StepRef(leased[0].id, 3))
    writer.turns([(episode, 0, turn)])
    kept = get_episode(store, episode)
    assert (kept.turns, kept.job, kept.task) == ((turn,), leased[0].id, None)


def test_a_completed_member_is_not_played_again(store: Store, clock, player) -> None:
    lease = player.task()
    (episode,) = player.group(lease, "g", [1.0])
    with pytest.raises(RuntimeFailure, match=f"member 0 of group 'g' was completed as episode {episode}"):
        StoreJournal(store, clock).start([player.plan(lease, "g", 1), player.plan(lease, "g", 0)])
    assert len(store.rows("SELECT * FROM episode")) == 1


def test_completing_a_member_aborts_its_other_attempts(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    lease = player.task()
    slow, fast, other = writer.start([player.plan(lease, "g"), player.plan(lease, "g"), player.plan(lease, "g", 1)])
    writer.finish([player.ending(fast)])
    assert [get_episode(store, episode).state for episode in (slow, fast, other)] == ["aborted", "completed", "running"]
    with pytest.raises(RuntimeFailure, match="is aborted already"):
        writer.finish([player.ending(slow)])
    with pytest.raises(RuntimeFailure, match="has ended"):
        writer.turns([(slow, 0, player.turn())])


def test_an_ending_is_written_once_and_never_changed(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(player.task(), "g")])
    writer.finish([player.ending(episode)])
    for again in (episode, 99):
        with pytest.raises(RuntimeFailure, match=f"an ending came for episode {again}, which this process is not playing"):
            writer.finish([player.ending(again, reward=0.0)])
    assert get_episode(store, episode).total_reward == 1.0


def test_a_journal_writes_only_what_it_started(store: Store, clock, player) -> None:
    (episode,) = StoreJournal(store, clock).start([player.plan(player.task(), "g")])
    stranger = StoreJournal(store, clock)
    with pytest.raises(RuntimeFailure, match="not playing"):
        stranger.turns([(episode, 0, player.turn())])
    with pytest.raises(RuntimeFailure, match="not playing"):
        stranger.finish([player.ending(episode)])


def test_journalling_renews_the_lease(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock, ttl_s=60)
    (episode,) = writer.start([player.plan(player.task(ttl_s=60), "g")])
    for n in range(5):
        clock.now += 50
        writer.turns([(episode, n, player.turn(tuple(range(n + 1))))])
        assert tasks.lease_tasks(store, "other", 1, 60, clock) == []


def test_an_attempt_that_ended_badly_does_not_abort_the_next_one(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    lease = player.task()
    first, second = writer.start([player.plan(lease, "g"), player.plan(lease, "g")])
    writer.finish([dataclasses.replace(player.ending(first), state="env_error", stop_reason="error", error="reward is 'Bad \ud800'")])
    assert get_episode(store, second).state == "running"
    assert get_episode(store, first).error == "reward is 'Bad ?'"


def test_orphans_are_those_without_a_lease(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    (alive,) = writer.start([player.plan(player.task(), "alive")])
    (dead,) = writer.start([player.plan(player.task(), "dead")])
    store.db.execute("UPDATE task SET attempt = attempt + 1 WHERE id = (SELECT task FROM episode WHERE id = ?)", [dead])
    assert abort_orphans(store) == 1
    assert [get_episode(store, episode).state for episode in (alive, dead)] == ["running", "aborted"]


def test_a_text_that_is_no_unicode_stops_nothing(store: Store, clock, player) -> None:
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(player.task(), "g")])
    writer.turns([(episode, 0, dataclasses.replace(player.turn(), observation="a\ud800b"))])
    assert get_episode(store, episode).turns[0].observation == "a?b"


def test_token_ids_that_do_not_fit_are_bad_input() -> None:
    assert blobs.unpack_ids(blobs.pack_ids([0, 1, -1, 2**31 - 1])) == (0, 1, -1, 2**31 - 1)
    assert blobs.pack_ids([1]) == b"\x01\0\0\0"
    assert blobs.unpack_logprobs(blobs.pack_logprobs([-0.5])) == (-0.5,)
    with pytest.raises(InputError, match="2147483648"):
        blobs.pack_ids([1, 2**31])


ACTOR = """
import os, sys
from pathlib import Path
from perdure.memory import tasks
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.leases import BootClock
from perdure.memory.records import EpisodePlan, Turn, VersionRef
from perdure.memory.store import open_store
store = open_store(Path(sys.argv[1]))
((task, lease),) = tasks.lease_tasks(store, "actor", 1, 60, BootClock())
journal = StoreJournal(store, BootClock())
sampler = VersionRef("v0")
ids = journal.start([EpisodePlan(environment=task.environment, seed=task.seed, group="g", member=m, purpose="live", sampler=sampler,
                                 temperature=1.0, lease=lease) for m in range(8)])
past = tuple(range(300))
for n in range(100_000):
    turn = Turn(prompt_ids=past, action_ids=(n,), logprobs=(-1.0,), observation="o", action="a", reward=0.0, sampler=sampler, finish="stop")
    journal.turns([(episode, n, turn) for episode in ids])
    past += (n,)
    print(n, flush=True)
"""


@pytest.mark.processes
def test_an_actor_killed_while_it_writes_loses_no_acknowledged_turn(store: Store, player) -> None:
    tasks.add_tasks(store, ADD, [7], 8, "stream")
    actor = subprocess.Popen([sys.executable, "-c", ACTOR, str(store.home)], stdout=subprocess.PIPE, text=True)
    assert actor.stdout is not None
    acknowledged = [int(actor.stdout.readline()) for _ in range(25)]
    os.kill(actor.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in actor.stdout if line.endswith("\n")]
    actor.stdout.close()
    assert actor.wait(timeout=30) == -signal.SIGKILL

    episodes = [get_episode(store, episode) for episode in range(1, 9)]
    lengths = {len(episode.turns) for episode in episodes}
    assert len(lengths) == 1, "a generation batch is whole"
    assert lengths.pop() - len(acknowledged) in (0, 1)
    for n, turn in enumerate(episodes[0].turns):
        assert turn.prompt_ids == tuple(range(300)) + tuple(range(n))
    assert {episode.state for episode in episodes} == {"running"}

    clock = BootClock()
    assert tasks.lease_tasks(store, "next", 1, 60, clock) == []
    store.db.execute("UPDATE task SET lease_until = 0")
    ((_, lease),) = tasks.lease_tasks(store, "next", 1, 60, clock)
    assert lease.attempt == 2
    assert {get_episode(store, episode).state for episode in range(1, 9)} == {"aborted"}


def test_losing_the_lease_undoes_the_whole_call(store: Store, clock, player, home: Path) -> None:
    writer = StoreJournal(store, clock)
    kept, lost = player.task("actor"), player.task("actor")
    (mine,) = writer.start([player.plan(kept, "kept")])
    (theirs,) = writer.start([player.plan(lost, "lost")])
    tasks.finish_task(store, lost)
    with pytest.raises(LeaseLost, match="nobody holds it now"):
        writer.turns([(mine, 0, player.turn()), (theirs, 0, player.turn())])
    assert get_episode(store, mine).turns == ()
