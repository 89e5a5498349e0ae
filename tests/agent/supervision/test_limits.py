from __future__ import annotations

from perdure.agent.supervision.limits import Limits, Tally, outcome


def code(limits: Limits, tally: Tally) -> int | None:
    found = outcome(limits, tally)
    return None if found is None else found.code


def test_run_without_limits_ends_by_itself_only_if_nothing_can_play() -> None:
    tally = Tally(tasks=10**6, verdicts=10**3, promoted="v9", failures=99, fruitless=99, deaths=4)
    assert outcome(Limits(), tally) is None
    tally.deaths, tally.death = 5, "crashed: it ended with exit code 1"
    ended = outcome(Limits(), tally)
    assert ended is not None
    assert ended.code == 3
    assert ended.reason == "the actor is given up after 5 deaths in a row; the last: crashed: it ended with exit code 1"


def test_cycles_end_after_verdicts_of_any_kind() -> None:
    assert code(Limits(cycles=2), Tally(verdicts=1)) is None
    assert code(Limits(cycles=2), Tally(verdicts=2)) == 0
    assert code(Limits(cycles=2), Tally(verdicts=1, promoted="v1")) is None


def test_until_promoted_ends_at_the_first_promotion_with_0() -> None:
    assert code(Limits(until_promoted=True), Tally(verdicts=1)) is None
    assert code(Limits(until_promoted=True), Tally(verdicts=3, promoted="v2")) == 0


def test_until_promoted_gives_up_after_max_cycles_with_1_and_the_reason() -> None:
    ended = outcome(Limits(until_promoted=True, max_cycles=3), Tally(verdicts=3, last="reject, perdure:add lost too much"))
    assert ended is not None
    assert ended.code == 1
    assert "3 verdicts without a promotion" in ended.reason
    assert "perdure:add lost too much" in ended.reason


def test_cycles_bound_until_promoted() -> None:
    assert code(Limits(until_promoted=True, cycles=5), Tally(verdicts=4)) is None
    assert code(Limits(until_promoted=True, cycles=5), Tally(verdicts=5)) == 1


def test_tasks_end_a_run() -> None:
    assert code(Limits(tasks=4), Tally(tasks=3)) is None
    assert code(Limits(tasks=4), Tally(tasks=4)) == 0
    assert code(Limits(tasks=4, until_promoted=True), Tally(tasks=4)) == 1


def test_a_stream_that_is_played_out_ends_a_run_that_waits_for_more() -> None:
    for limits, goal in (
        (Limits(tasks=9), "9 tasks"),
        (Limits(cycles=2), "2 verdicts"),
        (Limits(until_promoted=True), "any promotion"),
    ):
        ended = outcome(limits, Tally(tasks=8, verdicts=1, played_out=True))
        assert ended is not None
        assert (ended.code, ended.reason) == (1, f"the stream ended before {goal}, after 1 verdict")
    assert code(Limits(tasks=8), Tally(tasks=8, played_out=True)) == 0
    assert code(Limits(), Tally(played_out=True)) is None, "a person may still add tasks"


def test_waiting_for_what_cannot_come_ends() -> None:
    assert code(Limits(until_promoted=True, max_cycles=2), Tally(fruitless=2, last="nothing is learnable")) == 1
    assert code(Limits(cycles=1, tries=2), Tally(failures=1, deaths=1)) is None
    assert code(Limits(cycles=1, tries=2), Tally(failures=2)) == 3
    assert code(Limits(tasks=9, tries=2), Tally(deaths=2)) == 3
    assert code(Limits(tasks=9), Tally(fruitless=99, failures=99)) is None


def test_a_run_for_one_job_ends_with_the_job_or_when_its_server_is_given_up() -> None:
    assert outcome(Limits(job=3), Tally()) is None
    ended = outcome(Limits(job=3), Tally(job_ended=True))
    assert ended is not None
    assert (ended.code, ended.reason) == (0, "job 3 has ended")
    assert code(Limits(job=3), Tally(worst_child="vLLM server", deaths=5)) == 3
