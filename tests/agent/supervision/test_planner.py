from __future__ import annotations

from tests.results import gate_result, learn_result

from perdure.agent.supervision.planner import MIN_EPISODES, added_rates, choose_target, refusals, start_for
from perdure.memory.contracts.orders import Job, JobState, LearnOrder
from perdure.memory.contracts.results import GateResult, Leg
from perdure.memory.records import Decision
from perdure.memory.trajectories.episodes import RateRow

ADD, SORT, SPELL = "perdure:add", "perdure:sort", "perdure:spell"


def rate(successes: int, mixed: int, episodes: int = 64, groups: int = 8) -> RateRow:
    return RateRow(episodes=episodes, successes=successes, groups=groups, mixed_groups=mixed)


def job(target: str, verdict: Decision | None, *, id: int = 1, state: JobState = "done", gate: GateResult | None = None) -> Job:
    gate = gate or (gate_result(verdict) if verdict else None)
    return Job(
        id=id,
        order=LearnOrder(learner="grpo"),
        targets=(target,),
        state=state,
        attempt=1,
        candidate=f"v{id}",
        result=learn_result(gate, version=f"v{id}") if state == "done" else None,
        error=None,
        created=float(id),
    )


def test_environment_with_most_headroom_among_equally_mixed_is_chosen() -> None:
    choice = choose_target({ADD: rate(48, 8), SORT: rate(16, 8)}, [ADD, SORT])
    assert choice.target == SORT
    assert "25%" in choice.reason
    assert "8 of 8 groups are mixed" in choice.reason


def test_mixed_groups_count_as_much_as_headroom() -> None:
    """Nearly all groups of SORT are equal: most of its episodes would teach nothing."""
    assert choose_target({ADD: rate(40, 8), SORT: rate(2, 1)}, [ADD, SORT]).target == ADD


def test_what_is_now_won_and_now_lost_goes_before_what_is_hardly_ever_won() -> None:
    assert choose_target({ADD: rate(6, 5), SORT: rate(20, 5)}, [ADD, SORT]).target == SORT


def test_mastered_environment_is_no_target() -> None:
    choice = choose_target({ADD: rate(60, 4)}, [ADD])
    assert choice.target is None
    assert "94%" in choice.reason


def test_equal_groups_are_named_as_the_reason() -> None:
    choice = choose_target({ADD: rate(0, 0), SORT: rate(64, 0)}, [ADD, SORT])
    assert choice.target is None
    assert "0 mixed groups of 8" in choice.reason
    assert SORT in choice.reason


def test_too_few_episodes_are_said() -> None:
    choice = choose_target({ADD: rate(4, 1, episodes=MIN_EPISODES - 1, groups=1)}, [ADD])
    assert choice.target is None
    assert str(MIN_EPISODES - 1) in choice.reason


def test_nothing_played_yet_is_said() -> None:
    assert "no episode" in choose_target({}, [ADD]).reason
    assert choose_target({}, [ADD]).target is None
    assert "perdure.toml" in choose_target({ADD: rate(1, 1)}, []).reason


def test_only_environments_of_the_stream_are_chosen() -> None:
    assert choose_target({ADD: rate(8, 8), SORT: rate(40, 4)}, [SORT]).target == SORT


def test_target_refused_twice_gives_way_to_another_with_signal() -> None:
    rates = {ADD: rate(8, 8), SORT: rate(40, 4)}
    assert choose_target(rates, [ADD, SORT], {ADD: 1}).target == ADD
    assert choose_target(rates, [ADD, SORT], {ADD: 2}).target == SORT
    assert choose_target({ADD: rate(8, 8), SORT: rate(64, 0)}, [ADD, SORT], {ADD: 2}).target == ADD
    assert choose_target(rates, [ADD, SORT], {ADD: 2, SORT: 2}).target == ADD


def test_refusals_count_back_to_the_last_promotion() -> None:
    newest_first = [job(ADD, "reject"), job(SORT, "promote"), job(ADD, None, state="failed"), job(ADD, "promote"), job(ADD, "reject")]
    assert refusals(newest_first) == {ADD: 2}


def test_jobs_that_are_not_over_or_had_no_gate_refuse_nothing() -> None:
    assert refusals([job(ADD, None, state="running"), job(ADD, None)]) == {}


def test_candidate_that_held_but_gained_nothing_yet_is_gone_on_from() -> None:
    held = gate_result("inconclusive", environments={SORT: Leg(state="passed")}, gain="not shown")
    lost = gate_result("inconclusive", environments={SORT: Leg(state="not shown")}, gain="not shown")
    assert start_for(ADD, [job(SORT, "reject", id=9), job(ADD, "inconclusive", id=8, gate=held)]) == "v8"
    assert start_for(ADD, [job(ADD, "inconclusive", id=8, gate=lost)]) is None
    assert start_for(ADD, [job(ADD, "reject", id=9), job(ADD, "inconclusive", id=8, gate=held)]) is None
    assert start_for(ADD, []) is None


def test_rates_of_two_versions_add_up() -> None:
    first, second = {ADD: rate(4, 2, 10, 5), SORT: rate(1, 0, 1, 1)}, {ADD: rate(3, 1, 6, 2), SPELL: rate(0, 0, 8, 4)}
    assert added_rates(first, second) == {ADD: rate(7, 3, 16, 7), SORT: rate(1, 0, 1, 1), SPELL: rate(0, 0, 8, 4)}
