"""Jobs: queued once, run by one process at a time, and what they leave behind."""

from __future__ import annotations

import pytest
from tests.results import gate_result, learn_result, update

from perdure.memory import jobs, leases
from perdure.memory.contracts.orders import LearnOrder, ProbeOrder
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure, UnknownError
from perdure.memory.records import Lease, StepRef
from perdure.memory.store import Store
from perdure.memory.trajectories import manifests
from perdure.memory.trajectories.episodes import get_episode
from perdure.memory.trajectories.journal import StoreJournal

ADD = "perdure:add"


def lease(store: Store, clock, key: str = "k", owner: str = "learner") -> Lease:
    jobs.add_job(store, key, [ADD], LearnOrder(learner="grpo", options={"updates": 2, "lr": 1e-3}))
    leased = jobs.lease_job(store, owner, 60, clock)
    assert leased is not None
    return leased[1]


def test_the_same_job_added_twice_is_one(store: Store) -> None:
    order = LearnOrder(learner="grpo", options={"lr": 1e-3})
    first = jobs.add_job(store, "2026-11-23 morning", [ADD], order)
    assert jobs.add_job(store, "2026-11-23 morning", [ADD], order) == first
    assert jobs.add_job(store, "2026-11-23 evening", [ADD], order) != first
    assert jobs.get_job(store, first).order == order
    assert jobs.counts(store) == {"queued": 2, "leased": 0, "running": 0, "gating": 0, "done": 0, "failed": 0}


def test_a_job_runs_to_its_end(store: Store, clock) -> None:
    mine = lease(store, clock)
    for state in ("running", "gating"):
        jobs.set_job_state(store, mine, state)
        assert jobs.get_job(store, mine.subject).state == state
        jobs.renew_job(store, mine, 60, clock)
    result = learn_result(gate_result("promote"))
    jobs.finish_job(store, mine, result, "v0")
    job = jobs.get_job(store, mine.subject)
    assert (job.state, job.result, job.candidate, job.targets) == ("done", result, "v0", (ADD,))
    assert job.verdict == "promote"
    assert jobs.list_jobs(store) == [job]
    assert jobs.as_json(job)["id"] == job.id
    with pytest.raises(LeaseLost):
        jobs.finish_job(store, mine, learn_result(None), None)


def test_the_oldest_job_goes_first_unless_one_is_named(store: Store, clock) -> None:
    ids = [jobs.add_job(store, key, [], ProbeOrder()) for key in "abc"]
    assert jobs.lease_job(store, "p", 60, clock, job=ids[2])[1].subject == ids[2]  # type: ignore[index]
    assert jobs.lease_job(store, "p", 60, clock)[1].subject == ids[0]  # type: ignore[index]
    assert jobs.lease_job(store, "p", 60, clock, job=ids[0]) is None
    assert jobs.lease_job(store, "p", 60, clock)[1].subject == ids[1]  # type: ignore[index]
    assert jobs.lease_job(store, "p", 60, clock) is None


def test_a_learner_that_lost_its_job_writes_nothing(store: Store, clock, player) -> None:
    old = lease(store, clock)
    jobs.set_job_state(store, old, "running")
    writer = StoreJournal(store, clock)
    (episode,) = writer.start([player.plan(old, "g", purpose="learn", sampler=StepRef(old.subject, 0))])
    done = player.group(old, "h", [1.0], purpose="learn", sampler=StepRef(old.subject, 0))
    clock.now += 1000
    leased = jobs.lease_job(store, "next", 60, clock)
    assert leased is not None
    assert leased[1].attempt == 2
    for write in (
        lambda: jobs.set_job_state(store, old, "gating"),
        lambda: jobs.add_step(store, old, update(0)),
        lambda: jobs.finish_job(store, old, learn_result(None), None),
        lambda: jobs.fail_job(store, old, "x"),
        lambda: jobs.release_job(store, old),
        lambda: jobs.renew_job(store, old, 60, clock),
        lambda: manifests.write_manifest(store, old, 1, done, True),
        lambda: writer.turns([(episode, 0, player.turn())]),
    ):
        with pytest.raises(LeaseLost, match="learner lost its lease"):
            write()
    assert get_episode(store, episode).state == "aborted"
    assert jobs.get_job(store, old.subject).state == "leased"


def test_a_job_whose_process_dies_three_times_is_failed(store: Store, clock) -> None:
    lease(store, clock)
    for _ in range(2):
        clock.now += 1000
        assert jobs.lease_job(store, "next", 60, clock) is not None
    clock.now += 1000
    assert jobs.lease_job(store, "next", 60, clock) is None
    job = jobs.list_jobs(store)[0]
    assert job.state == "failed"
    assert "the process that ran it died" in (job.error or "")


def test_a_job_that_was_ended_by_something_else_is_tried_again_three_times_in_all(store: Store, clock) -> None:
    mine = lease(store, clock)
    for attempt in (1, 2, 3):
        assert mine.attempt == attempt
        jobs.retry_job(store, mine, f"killed, {attempt}")
        job = jobs.get_job(store, mine.subject)
        assert (job.state, job.error) == ("queued" if attempt < 3 else "failed", f"killed, {attempt}")
        with pytest.raises(LeaseLost):
            jobs.retry_job(store, mine, "once more")
        leased = jobs.lease_job(store, "learner", 60, clock)
        assert (leased is None) == (attempt == 3)
        mine = leased[1] if leased else mine


def test_a_job_is_at_work_as_long_as_its_lease_holds(store: Store, clock) -> None:
    waiting = jobs.add_job(store, "waits", [ADD], LearnOrder(learner="grpo"))
    assert jobs.jobs_at_work(store, clock) == []
    leased = jobs.lease_job(store, "learner", 60, clock, waiting)
    assert leased is not None
    jobs.set_job_state(store, leased[1], "gating")
    assert [job.id for job in jobs.jobs_at_work(store, clock)] == [waiting]
    clock.now += 61
    assert jobs.jobs_at_work(store, clock) == []


def test_a_failed_job_is_not_tried_again_and_a_released_one_is(store: Store, clock) -> None:
    mine = lease(store, clock)
    jobs.release_job(store, mine)
    again = jobs.lease_job(store, "learner", 60, clock)
    assert again is not None
    jobs.fail_job(store, again[1], "the loss is not a number")
    assert jobs.lease_job(store, "learner", 60, clock) is None
    assert jobs.get_job(store, mine.subject).error == "the loss is not a number"


def test_reused_episodes_of_a_batch_are_not_on_policy(store: Store, clock, player) -> None:
    mine = lease(store, clock)
    old = player.group(player.task(), "live", [1.0, 0.0])
    first = player.group(mine, "first", [1.0, 0.0], purpose="learn", sampler=StepRef(mine.subject, 0))
    second = player.group(mine, "second", [1.0], purpose="learn", sampler=StepRef(mine.subject, 1))
    manifests.write_manifest(store, mine, 1, first, on_policy=True, reused=old)
    manifests.write_manifest(store, mine, 1, first, on_policy=True, reused=old)  # once more changes nothing
    manifests.write_manifest(store, mine, 2, second, on_policy=True, reused=[*old, first[0]])
    marked = [tuple(row) for row in store.rows("SELECT n, episode, on_policy FROM manifest ORDER BY n, episode")]
    assert marked == [
        *[(1, episode, 0) for episode in old],
        *[(1, episode, 1) for episode in first],
        *[(2, episode, 0) for episode in old],
        (2, first[0], 0),
        (2, second[0], 1),
    ]
    assert [(one.episodes, one.on_policy) for one in manifests.manifests(store, mine.subject)] == [
        ((*old, *first), True),
        ((*old, first[0], *second), True),
    ]
    with pytest.raises(RuntimeFailure, match="has other episodes already"):
        manifests.write_manifest(store, mine, 1, first, on_policy=True)
    with pytest.raises(RuntimeFailure, match=f"episode {first[0]} is in the on-policy batch"):
        manifests.write_manifest(store, mine, 3, first, on_policy=True)


def test_a_batch_of_reused_episodes_alone_is_not_on_policy(store: Store, clock, player) -> None:
    mine = lease(store, clock)
    old = player.group(player.task(), "live", [1.0, 0.0])
    manifests.write_manifest(store, mine, 1, [], on_policy=True, reused=old)
    assert [(one.episodes, one.on_policy) for one in manifests.manifests(store, mine.subject)] == [(tuple(old), False)]
    held_out = player.group(mine, "gate", [1.0], purpose="gate")
    with pytest.raises(InputError, match="on held-out seeds: it is never learned from"):
        manifests.write_manifest(store, mine, 2, [], on_policy=True, reused=held_out)


def test_an_attempt_that_begins_anew_undoes_all_updates_before(store: Store, clock) -> None:
    mine = lease(store, clock)
    for n in (1, 2, 3):
        jobs.add_step(store, mine, update(n))
    clock.now += 1000
    leased = jobs.lease_job(store, "next", 60, clock)
    assert leased is not None
    jobs.add_step(store, leased[1], update(1))
    assert [(step.attempt, step.n) for step in jobs.steps(store, mine.subject)] == [(2, 1)]


def test_steps_are_those_of_the_latest_attempt(store: Store, clock) -> None:
    mine = lease(store, clock)
    for n in (0, 1, 1):
        jobs.add_step(store, mine, update(n, nll=n / 2))
    assert [step.update for step in jobs.steps(store, mine.subject)] == [update(0, nll=0.0), update(1, nll=0.5)]
    clock.now += 1000
    leased = jobs.lease_job(store, "next", 60, clock)
    assert leased is not None
    jobs.add_step(store, leased[1], update(0, nll=9.0))
    assert [(step.attempt, step.n) for step in jobs.steps(store, mine.subject)] == [(2, 0)]


def test_an_attempt_that_goes_on_keeps_the_steps_before(store: Store, clock) -> None:
    mine = lease(store, clock)
    for n in (1, 2, 3):
        jobs.add_step(store, mine, update(n))
    clock.now += 1000
    leased = jobs.lease_job(store, "next", 60, clock)
    assert leased is not None
    jobs.add_step(store, leased[1], update(3))
    jobs.add_step(store, leased[1], update(4))
    assert [(step.attempt, step.n) for step in jobs.steps(store, mine.subject)] == [(1, 1), (1, 2), (2, 3), (2, 4)]


def test_no_episode_is_in_two_on_policy_batches(store: Store, clock, player) -> None:
    mine = lease(store, clock)
    first = player.group(mine, "a", [1.0, 0.0], purpose="learn")
    second = player.group(mine, "b", [1.0, 0.0], purpose="learn")
    manifests.write_manifest(store, mine, 1, first, True)
    with pytest.raises(RuntimeFailure, match=f"episode {first[1]} is in the on-policy batch of job {mine.subject}, step 1"):
        manifests.write_manifest(store, mine, 2, [*second, first[1]], True)
    assert len(manifests.manifests(store, mine.subject)) == 1
    manifests.write_manifest(store, mine, 2, second, True)
    manifests.write_manifest(store, mine, 3, first + second, False)
    assert [(m.n, m.episodes, m.on_policy) for m in manifests.manifests(store, mine.subject)] == [
        (1, tuple(first), True),
        (2, tuple(second), True),
        (3, tuple(first + second), False),
    ]


def test_a_job_that_starts_again_makes_its_batches_again_from_fresh_episodes(store: Store, clock, player) -> None:
    mine = lease(store, clock)
    first = player.group(mine, "a", [1.0, 0.0], purpose="learn")
    manifests.write_manifest(store, mine, 1, first, True)
    clock.now += 1000
    leased = jobs.lease_job(store, "next", 60, clock)
    assert leased is not None
    with pytest.raises(RuntimeFailure, match="on-policy"):
        manifests.write_manifest(store, leased[1], 1, first, True)
    manifests.write_manifest(store, leased[1], 1, player.group(leased[1], "b", [1.0, 0.0], purpose="learn"), True)


def test_the_same_manifest_again_changes_nothing_and_another_is_refused(store: Store, clock, player) -> None:
    mine = lease(store, clock)
    ids = player.group(mine, "a", [1.0, 0.0], purpose="learn")
    manifests.write_manifest(store, mine, 1, ids, True)
    manifests.write_manifest(store, mine, 1, ids[::-1], True)
    with pytest.raises(RuntimeFailure, match="has other episodes already: it is not changed"):
        manifests.write_manifest(store, mine, 1, ids[:1], True)
    with pytest.raises(RuntimeFailure, match="has other episodes already: it is not changed"):
        manifests.write_manifest(store, mine, 1, ids, False)


def test_nothing_held_out_or_unfinished_is_learned_from(store: Store, clock, player) -> None:
    mine = lease(store, clock)
    for purpose in ("gate", "probe"):
        ids = player.group(mine, purpose, [1.0], purpose=purpose)
        with pytest.raises(InputError, match=f"played as a {purpose} episode"):
            manifests.write_manifest(store, mine, 1, ids, False)
    running = StoreJournal(store, clock).start([player.plan(mine, "g", purpose="learn")])
    with pytest.raises(InputError, match="is running"):
        manifests.write_manifest(store, mine, 1, running, False)
    with pytest.raises(InputError, match="no episode 99"):
        manifests.write_manifest(store, mine, 1, [99], False)
    with pytest.raises(InputError, match="a batch needs at least one episode"):
        manifests.write_manifest(store, mine, 1, [], False)


def test_a_job_that_is_not_there(store: Store) -> None:
    with pytest.raises(UnknownError, match="no job 5"):
        jobs.get_job(store, 5)


def test_a_failed_job_is_queued_again_with_all_its_attempts(store: Store, clock) -> None:
    mine = lease(store, clock)
    jobs.fail_job(store, mine, "out of luck")
    jobs.requeue_failed(store, mine.subject)
    job = jobs.get_job(store, mine.subject)
    assert (job.state, job.error) == ("queued", None)
    for _ in range(2):
        again = jobs.lease_job(store, "learner", 60, clock)
        assert again is not None
        jobs.retry_job(store, again[1], "a full disk")
    assert jobs.get_job(store, mine.subject).state == "queued"
    done = jobs.lease_job(store, "learner", 60, clock)
    assert done is not None
    jobs.finish_job(store, done[1], learn_result(None), None)
    jobs.requeue_failed(store, mine.subject)
    assert jobs.get_job(store, mine.subject).state == "done"


def test_what_was_leased_is_released_without_an_attempt_spent(store: Store, clock) -> None:
    mine = lease(store, clock)
    for _ in range(2 * leases.ATTEMPT_CAP):
        jobs.release_all(store)
        assert jobs.get_job(store, mine.subject).state == "queued"
        again = jobs.lease_job(store, "learner", 60, clock)
        assert again is not None
        jobs.set_job_state(store, again[1], "running")
    with pytest.raises(LeaseLost):
        jobs.renew_job(store, mine, 60, clock)
    assert jobs.get_job(store, mine.subject).attempt == 1 + 2 * leases.ATTEMPT_CAP
