"""What follows a verdict: every rule, and that nothing is dropped without a sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.agent.planning.lives import ADD, SORT, SPELL, environment, gated, learned, leg, life, verdict

from perdure.agent.planning.follow_up import follow_up
from perdure.agent.planning.life_so_far import LifeSoFar, Standing
from perdure.agent.planning.step_kinds import GateNext, LearnNext, Unfollowed
from perdure.memory.contracts.orders import GateOrder
from perdure.memory.contracts.results import GateResult

HELD = leg(0.0, 40)
UNCLEAR = leg(-0.02, 192, "not shown")
LOST = leg(-0.2, 10, "failed")

NO_GAIN = verdict("reject", "v1", gain="failed", sort=HELD)
ALL_BUT_GAIN = verdict("inconclusive", "v1", gain="not shown", sort=HELD)
ALL_BUT_HOLD = verdict("inconclusive", "v1", sort=UNCLEAR)
FELL = verdict("reject", "v1", sort=LOST)


def learns(step: object) -> LearnNext:
    assert isinstance(step, LearnNext)
    return step


@pytest.mark.parametrize(
    "decision", [NO_GAIN, verdict("inconclusive", "v1", gain="not asked", sort=HELD, reason="all held, nothing left to gain")]
)
def test_a_verdict_without_a_gain_to_come_is_followed_by_nothing_and_says_so(decision: GateResult) -> None:
    found = follow_up(life(learned(1, [ADD], decision)))
    assert found == Unfollowed(job=1, why=f"nothing follows the verdict on v1: {decision.reason}")


def test_a_promotion_and_a_home_without_verdicts_ask_for_nothing() -> None:
    assert follow_up(life()) is None
    assert follow_up(life(learned(1, [ADD], None))) is None
    assert follow_up(life(learned(2, [ADD], verdict("promote", "v2")), learned(1, [ADD], ALL_BUT_GAIN))) is None


@pytest.mark.parametrize("decision", [NO_GAIN, ALL_BUT_GAIN, ALL_BUT_HOLD, FELL])
def test_found_nothing_follows_a_verdict_on_what_was_retired(decision: GateResult) -> None:
    rest = [environment(SORT), environment(SPELL)]
    found = follow_up(life(learned(1, [ADD], decision), environments=rest))
    assert found == Unfollowed(job=1, why="nothing follows the verdict on v1: perdure:add is retired")
    again = gated(2, [SORT], ALL_BUT_HOLD, follows=1)
    assert isinstance(follow_up(life(again, learned(1, [ADD], ALL_BUT_HOLD), environments=rest)), Unfollowed)


# --- all held, the gain was not shown ---


def test_training_goes_on_from_a_candidate_that_only_lacks_its_gain() -> None:
    step = learns(follow_up(life(learned(7, [ADD], ALL_BUT_GAIN))))
    assert (step.targets, step.aim, step.start, step.follows, step.learner) == ((ADD,), "continuation", "v1", 7, None)
    assert step.why == "training goes on from v1: with it all held, and a gain in perdure:add was not shown yet"


def test_training_goes_on_three_times_in_a_row_and_no_more() -> None:
    jobs = [learned(1, [ADD], ALL_BUT_GAIN)]
    for n in (2, 3, 4):
        assert learns(follow_up(life(*jobs))).start == f"v{n - 1}"
        jobs.insert(0, learned(n, [ADD], replace(ALL_BUT_GAIN, candidate=f"v{n}"), aim="continuation", follows=n - 1))
    found = follow_up(life(*jobs))
    assert found == Unfollowed(job=4, why="training does not go on from v4: it did 3 times, and no gain in perdure:add was shown")


def test_a_gate_between_two_continuations_does_not_start_the_count_anew() -> None:
    again = gated(4, [ADD], replace(ALL_BUT_GAIN, candidate="v3"), candidate="v3", follows=3)
    jobs = [
        again,
        learned(3, [ADD], replace(ALL_BUT_HOLD, candidate="v3"), aim="continuation", follows=2),
        learned(2, [ADD], replace(ALL_BUT_GAIN, candidate="v2"), aim="continuation", follows=1),
        learned(1, [ADD], ALL_BUT_GAIN),
    ]
    assert learns(follow_up(life(*jobs))).start == "v3"
    jobs.insert(0, learned(5, [ADD], replace(ALL_BUT_GAIN, candidate="v5"), aim="continuation", follows=4))
    assert isinstance(follow_up(life(*jobs)), Unfollowed)


def test_training_does_not_go_on_for_what_is_set_aside() -> None:
    """A game of chance always holds."""
    jobs = [learned(n, [ADD], replace(NO_GAIN, candidate=f"v{n}")) for n in (4, 3, 2, 1)]
    found = follow_up(life(learned(5, [ADD], replace(ALL_BUT_GAIN, candidate="v5")), *jobs))
    assert found == Unfollowed(job=5, why="training does not go on from v5: perdure:add is set aside after too many refusals")


def test_after_hints_training_goes_on_with_hints() -> None:
    first = learned(1, [ADD], ALL_BUT_GAIN, aim="first success", learner="iterative-sft", options={"hints": True})
    step = learns(follow_up(life(first)))
    assert (step.learner, step.options, step.aim) == ("iterative-sft", {"hints": True}, "continuation")


def test_a_candidate_whose_files_are_gone_is_named() -> None:
    found = follow_up(life(learned(1, [ADD], ALL_BUT_GAIN), gone=["v1"]))
    assert isinstance(found, Unfollowed)
    assert found.why.startswith("training does not go on from v1: its files are gone")
    found = follow_up(life(learned(1, [ADD], ALL_BUT_HOLD), gone=["v1"]))
    assert isinstance(found, Unfollowed)
    assert found.why.startswith("v1 is not gated once more: its files are gone")


# --- the gain was shown, something was not shown to hold ---


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (ALL_BUT_HOLD, "its gain was shown, and perdure:sort could not be shown to hold"),
        (
            verdict("inconclusive", "v1", pooled="not shown", sort=HELD),
            "its gain was shown, and the earlier environments together could not be shown to hold",
        ),
        (
            verdict("inconclusive", "v1", gain="not asked", pooled="not shown", sort=UNCLEAR, spell=UNCLEAR),
            "no gain was asked for, and perdure:sort, perdure:spell and the earlier environments together could not be shown to hold",
        ),
    ],
)
def test_a_candidate_with_its_gain_is_gated_once_more(result: GateResult, why: str) -> None:
    found = follow_up(life(learned(7, [ADD], result)))
    assert found == GateNext(candidate="v1", targets=(ADD,), follows=7, why=f"v1 is gated once more: {why}")


def test_no_candidate_is_gated_a_third_time_but_repaired() -> None:
    unclear = verdict("inconclusive", "v1", sort=leg(-0.1, 190, "not shown"))
    step = learns(follow_up(life(gated(8, [ADD], unclear, follows=7), learned(7, [ADD], ALL_BUT_HOLD))))
    assert (step.aim, step.start, step.follows) == ("repair", "v1", 8)
    assert step.targets == (ADD, SORT)
    assert step.why == (
        "perdure:sort could not be shown to hold with v1: the next job repairs what is below its anchor with v1: "
        "perdure:sort (10 points); and keeps perdure:add as a target"
    )


def test_a_second_gate_that_failed_is_not_tried_again() -> None:
    step = follow_up(life(gated(8, [ADD], None, follows=7), learned(7, [ADD], ALL_BUT_HOLD)))
    assert isinstance(step, LearnNext | Unfollowed)


def test_a_second_gate_that_promotes_ends_the_matter() -> None:
    assert follow_up(life(gated(8, [ADD], verdict("promote", "v1"), follows=7), learned(7, [ADD], ALL_BUT_HOLD))) is None


# --- something fell ---


def test_what_fell_is_repaired_from_the_candidate_if_its_gain_was_shown() -> None:
    """Of add three points are not more than three points."""
    fell = verdict("reject", "v1", sort=LOST, spell=leg(-0.04, 40), add=leg(-0.03, 90))
    step = learns(follow_up(life(learned(7, [ADD], fell))))
    assert (step.targets, step.aim, step.start, step.follows) == ((ADD, SORT, SPELL), "repair", "v1", 7)
    assert step.why == (
        "perdure:sort fell with v1: the next job repairs what is below its anchor with v1: perdure:sort (20 points), perdure:spell (4); "
        "and keeps perdure:add as a target"
    )


@pytest.mark.parametrize(
    ("lost", "won", "start"),
    [
        (0.20, 0.15, "v1"),
        (0.22, 0.20, None),
        (0.22, 0.24, "v1"),
    ],
)
def test_a_candidate_that_collapsed_somewhere_is_no_start(lost: float, won: float, start: str | None) -> None:
    fell = verdict("reject", "v1", sort=leg(-lost, 10, "failed"), trained={ADD: leg(won, 20), SPELL: leg(-0.5, 20, "not shown")})
    below = replace(environment(SPELL), standing=Standing(difference=-0.2, pairs=10))
    step = learns(follow_up(life(learned(7, [ADD], fell), environments=[environment(ADD), environment(SORT), below])))
    assert (step.start, step.targets) == (start, (ADD, SORT) if start else (ADD, SPELL))


def test_a_repair_of_the_serving_version_is_not_tried_again_without_what_fell_with_it() -> None:
    below = replace(environment(SPELL), standing=Standing(difference=-0.2, pairs=10))
    lost = verdict("reject", "v1", gain="not shown", sort=LOST)
    first, repair = learned(1, [ADD], lost), learned(2, [ADD, SPELL], replace(lost, candidate="v2"), aim="repair", follows=1)
    environments = [environment(ADD), environment(SORT), below]
    assert learns(follow_up(life(first, environments=environments))).targets == (ADD, SPELL)
    assert learns(follow_up(life(repair, first, environments=environments))).targets == (ADD, SPELL, SORT)


def test_many_small_losses_are_repaired_from_the_candidate_though_they_add_up_to_more_than_its_gain() -> None:
    lost = {name: leg(-0.18, 10) for name in ("sort", "spell", "add")}  # 54 points, and it won 40
    step = learns(follow_up(life(learned(7, [ADD], verdict("reject", "v1", pooled="failed", **lost)))))
    assert (step.start, step.targets) == ("v1", (ADD, SORT, SPELL))


def test_without_a_gain_the_serving_version_is_repaired() -> None:
    below = replace(environment(SPELL), standing=Standing(difference=-0.06, pairs=30))
    now = life(
        learned(7, [ADD], verdict("reject", "v1", gain="not shown", sort=LOST)), environments=[environment(ADD), environment(SORT), below]
    )
    step = learns(follow_up(now))
    assert (step.targets, step.start) == ((ADD, SPELL), None)
    assert "below its anchor with v0: perdure:spell (6 points)" in step.why


def test_if_nothing_is_below_its_anchor_nothing_is_repaired_and_that_is_said() -> None:
    found = follow_up(life(learned(7, [ADD], verdict("reject", "v1", gain="not shown", sort=LOST))))
    assert found == Unfollowed(
        job=7, why="perdure:sort fell with v1, and nothing is repaired: v0 is below no anchor as far as its pairs show"
    )


@pytest.mark.parametrize(
    "result",
    [
        verdict("reject", "v1", gain="failed", sort=leg(-0.2, 20), regressed=(SORT,)),
        verdict("reject", "v1", gain="not shown", pooled="failed", sort=leg(-0.2, 20)),
        verdict("inconclusive", "v1", gain="not shown", sort=leg(-0.2, 192, "not shown")),
    ],
    ids=["named by e-BH", "all together", "neither gain nor hold"],
)
def test_a_loss_of_any_kind_leads_to_a_repair(result: GateResult) -> None:
    below = replace(environment(SPELL), standing=Standing(difference=-0.2, pairs=10))
    step = learns(follow_up(life(learned(7, [ADD], result), environments=[environment(ADD), environment(SORT), below])))
    assert (step.targets, step.aim, step.start) == ((ADD, SPELL), "repair", None)


def test_a_rejected_candidate_whose_files_are_gone_is_no_start() -> None:
    below = replace(environment(SORT), standing=Standing(difference=-0.2, pairs=10))
    step = learns(follow_up(life(learned(7, [ADD], FELL), environments=[environment(ADD), below], gone=["v1"])))
    assert (step.start, step.targets) == (None, (ADD, SORT))


def test_two_environments_that_cannot_be_held_together_are_given_up_after_two_repairs_and_named() -> None:
    jobs = [learned(1, [ADD], FELL)]
    for n in (2, 3):
        step = learns(follow_up(life(*jobs)))
        assert (step.aim, step.targets) == ("repair", (ADD, SORT))
        jobs.insert(0, learned(n, step.targets, replace(FELL, candidate=f"v{n}"), aim="repair", follows=n - 1))
    assert follow_up(life(*jobs)) == Unfollowed(
        job=3,
        why="perdure:add and perdure:sort could not be held together: 2 repairs led to no promotion, so no other is tried until one comes",
    )
    jobs.insert(0, learned(4, [ADD], replace(FELL, candidate="v4")))
    found = follow_up(life(*jobs))
    assert isinstance(found, Unfollowed), "the next job on the same target is not repaired either"
    promoted = learned(5, [SPELL], verdict("promote", "v5"))
    jobs = [learned(6, [ADD], replace(FELL, candidate="v6")), promoted, *jobs]
    assert learns(follow_up(life(*jobs))).aim == "repair", "a promotion changes what can be held"


def test_a_second_repair_does_not_take_up_what_the_first_one_has_won_back() -> None:
    first = learned(1, [ADD], verdict("reject", "v1", sort=LOST))
    second = learned(2, [ADD, SORT], verdict("reject", "v2", spell=LOST, sort=HELD), aim="repair", follows=1)
    assert learns(follow_up(life(second, first))).targets == (ADD, SPELL)


# --- which verdict is open ---


def test_a_verdict_that_a_job_follows_is_answered() -> None:
    continued = learned(8, [ADD], None, aim="continuation", follows=7)
    assert follow_up(life(continued, learned(7, [ADD], ALL_BUT_GAIN))) is None


def test_a_verdict_is_not_forgotten_because_a_person_asked_for_another_job_meanwhile() -> None:
    step = follow_up(life(learned(8, [SPELL], NO_GAIN), learned(7, [ADD], replace(ALL_BUT_HOLD, candidate="v7"))))
    assert isinstance(step, GateNext)
    assert (step.candidate, step.follows) == ("v7", 7)


def test_a_later_job_on_the_same_target_takes_the_place_of_a_verdict() -> None:
    found = follow_up(life(learned(8, [ADD], replace(NO_GAIN, candidate="v8")), learned(7, [ADD], ALL_BUT_GAIN)))
    assert isinstance(found, Unfollowed)
    assert found.job == 8


def test_a_verdict_against_a_version_that_serves_no_more_is_not_followed() -> None:
    assert follow_up(life(learned(7, [ADD], replace(ALL_BUT_GAIN, serving="v9")))) is None


@pytest.mark.parametrize("leads_to", ["nothing", "rollback"])
def test_gates_that_promote_nothing_are_no_business_of_the_planner(leads_to: str) -> None:
    asked = gated(8, [ADD], ALL_BUT_HOLD, follows=None)
    other = replace(asked, order=GateOrder(candidate="v1", leads_to=leads_to))  # type: ignore[arg-type]
    assert follow_up(life(other)) is None
    step = follow_up(life(other, learned(7, [ADD], ALL_BUT_GAIN)))
    assert isinstance(step, LearnNext)
    assert step.follows == 7


def test_the_order_of_jobs_is_that_of_their_numbers_whatever_the_clock_said() -> None:
    jobs = [learned(8, [ADD], replace(NO_GAIN, candidate="v8")), learned(7, [ADD], ALL_BUT_GAIN)]
    now = life(*jobs)
    jumped: LifeSoFar = replace(now, jobs=tuple(replace(job, created=-1e9 * job.id) for job in now.jobs))
    assert follow_up(jumped) == follow_up(now)
