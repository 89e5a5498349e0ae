"""The choice of the candidate's step: numbers by hand, scripted jobs, and how often noise misleads it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import pytest

from perdure.learners.selection.best_step import (
    Scores,
    StepCheck,
    best_step,
    change,
    early_end,
    fallen,
    is_better_than_start,
    is_due,
    old_episodes,
    selection,
    unchecked,
)
from perdure.memory.contracts.results import StepScore


def won(successes: int, of: int = 16) -> Scores:
    """The first so many are won."""
    return (1.0,) * successes + (0.0,) * (of - successes)


def job(targets: Sequence[int], old: Sequence[int] | None = None) -> list[StepCheck]:
    """Checks at every third step: successes of 16 on one target, and of 4 in one old environment, which stays at 2 by default."""
    kept = [2] * len(targets) if old is None else old
    return [
        StepCheck(step=3 * n, targets={"t": won(score)}, old={"o": won(held, 4)})
        for n, (score, held) in enumerate(zip(targets, kept, strict=True))
    ]


def test_a_change_by_hand() -> None:
    """Agresti and Min (2005): 5 won before and not after, 1 the other way, of 16 pairs."""
    found = change([won(9)], [(0.0,) * 5 + (1.0,) * 5 + (0.0,) * 6])
    assert found.mean == pytest.approx((1 - 5) / 18)
    assert found.error == pytest.approx(math.sqrt((5.5 + 1.5) - 16 / 18) / 18)


def test_graded_scores_and_several_environments_are_one_set_of_pairs() -> None:
    found = change([(0.5, 0.25), (1.0,)], [(1.0, 0.0), (0.0,)])
    assert found.mean == pytest.approx((0.5 - 0.25 - 1.0) / 5)
    assert found.error == pytest.approx(math.sqrt(0.25 + 0.0625 + 1 + 1 - 0.75**2 / 5) / 5)


def test_seeds_that_failed_on_either_side_are_left_out() -> None:
    assert change([(None, 0.0, 1.0)], [(1.0, 1.0, None)]) == change([(0.0,)], [(1.0,)])
    nothing = change([(None,)], [(1.0,)])
    assert (nothing.mean, nothing.error) == (0.0, 0.5)


def test_equal_scores_still_have_an_error() -> None:
    assert change([won(16)], [won(16)]).error == pytest.approx(1 / 18)


@pytest.mark.parametrize(
    ("targets", "step"),
    [
        ([5, 8, 10, 13], 9),  # it rises: the last
        ([5, 5, 5, 5], 9),  # nothing changes: the last
        ([5, 12, 12, 11], 9),  # a tie within the noise: the last
        ([5, 12, 13, 1], 6),  # a collapse at the end: the step before it
        ([5, 12, 1, 0], 3),
        ([5, 1, 1, 3], 9),  # below the start everywhere: still the best of them
        ([5, 1, 9, 4], 6),
        ([16, 16], 3),
    ],
)
def test_the_latest_step_that_is_not_clearly_below_the_best_is_the_candidate(targets: list[int], step: int) -> None:
    assert best_step(job(targets)).step == step


def test_steps_at_which_something_fell_are_passed_over() -> None:
    checks = job([5, 8, 12, 14], old=[4, 4, 3, 0])
    assert [fallen(checks[0], check) for check in checks] == [[], [], [], ["o"]]
    assert best_step(checks).step == 6
    assert best_step(job([5, 8, 14], old=[4, 0, 0])).step == 6  # everywhere: the best sum of both changes
    assert best_step(job([5, 12, 9], old=[4, 0, 0])).step == 3


def test_small_falls_in_all_old_environments_add_up() -> None:
    before = {name: won(3, 4) for name in "abcdefg"}
    after = {name: won(1, 4) for name in "abcdefg"}
    start, later = (StepCheck(step=n, targets={"t": won(5)}, old=old) for n, old in enumerate((before, after)))
    assert fallen(start, later) == list("abcdefg")
    one = StepCheck(step=1, targets=start.targets, old={**before, "a": won(1, 4)})
    assert fallen(start, one) == []


def test_without_old_environments_nothing_falls() -> None:
    start, later = (StepCheck(step=n, targets={"t": won(5)}, old={}) for n in range(2))
    assert fallen(start, later) == []
    assert best_step([start, later]) is later


def test_several_targets_count_together() -> None:
    def both(step: int, a: int, b: int) -> StepCheck:
        return StepCheck(step=step, targets={"a": won(a), "b": won(b)}, old={})

    checks = [both(0, 5, 5), both(3, 12, 12), both(6, 14, 1)]
    assert best_step(checks).step == 3
    assert early_end([both(0, 5, 5), both(3, 16, 8)]) is None
    assert "ceiling at step 3" in str(early_end([both(0, 5, 5), both(3, 16, 16)]))


def test_a_job_ends_early_at_its_ceiling() -> None:
    assert early_end(job([16])) is None  # the start alone
    assert early_end(job([5, 15])) is None
    assert early_end(job([5, 16])) == "the targets reached their ceiling at step 3 (score 1.00)"
    few = [StepCheck(step=n, targets={"t": won(7, 7)}, old={}) for n in range(2)]
    assert early_end(few) is None  # seven are too few to say so


def test_a_job_ends_early_if_two_checks_in_a_row_are_clearly_below_the_best() -> None:
    assert early_end(job([5, 12, 2])) is None  # one can be chance
    assert early_end(job([5, 12, 2, 12])) is None
    assert early_end(job([5, 12, 2, 1])) == "the targets collapsed: score 0.75 at step 3, 0.06 at step 9"
    assert early_end(job([10, 1, 0])) == "the targets collapsed: score 0.62 at step 0, 0.00 at step 6"


def test_a_job_ends_early_if_four_checks_are_no_better_than_the_four_before() -> None:
    assert early_end(job([5] * 7)) is None
    assert early_end(job([5] * 8)) == "the targets have not improved since step 9 (score 0.31, now 0.31)"
    assert early_end(job([5, 6, 6, 7, 7, 7, 8, 8])) is None
    assert early_end(job([5, 9, 9, 9, 8, 8, 8, 8])) is not None
    assert early_end(job([0] * 8)) is not None


def test_after_a_failure_a_step_must_be_better_than_the_start_by_more_than_chance() -> None:
    assert not is_better_than_start(job([5]))
    assert not is_better_than_start(job([5, 5, 5]))
    assert not is_better_than_start(job([5, 5, 1]))
    assert is_better_than_start(job([5, 9, 1]))
    assert not is_better_than_start(job([5, 9, 1], old=[4, 0, 0]))


def test_the_choice_is_said_in_words() -> None:
    chosen = selection(job([5, 12, 1, 0]), "it collapsed")
    assert (chosen.step, chosen.ended_early) == (3, "it collapsed")
    assert chosen.reason == "the targets scored 0.75 there, 0.31 at the start and 0.00 at step 9"
    assert chosen.checks[1].targets == {"t": StepScore(score=0.75, episodes=16)}
    assert chosen.checks[1].old == {"o": StepScore(score=0.5, episodes=4)}
    assert selection(job([5, 12])).reason == "the targets scored 0.75 there, 0.31 at the start"
    fell = selection(job([5, 9, 9], old=[4, 4, 0])).reason
    assert fell == "the targets scored 0.56 there, 0.31 at the start; at step 6 o fell"
    assert selection(job([5, 9], old=[4, 0])).reason.endswith(
        "there, 0.31 at the start; old environments fell at every step that was checked"
    )
    failed = StepCheck(step=3, targets={"t": (None,) * 16}, old={})
    assert selection([StepCheck(step=0, targets={"t": won(5)}, old={}), failed]).checks[1].targets["t"] == StepScore(score=None, episodes=0)
    assert unchecked(12).step == 12


@pytest.mark.parametrize(("environments", "each"), [(0, 0), (1, 16), (2, 8), (4, 4), (7, 4), (16, 4), (20, 3), (40, 1), (100, 1)])
def test_old_environments_get_a_quarter_of_the_episodes_within_bounds(environments: int, each: int) -> None:
    assert old_episodes(16, environments) == each


def test_steps_are_checked_every_few_updates() -> None:
    assert [step for step in range(10) if is_due(step, 3)] == [0, 3, 6, 9]
    assert not any(is_due(step, 0) for step in range(10))


class Model:
    """A simulated policy: each task has its own difficulty, and every answer its own chance."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def job(self, targets: Sequence[float], old: Mapping[str, Sequence[float]] | None = None) -> list[StepCheck]:
        """Checks of a job whose true success rates are these, by check."""
        tasks = [self.chance.gauss(0, 1) for _ in range(16)]
        others = {name: [self.chance.gauss(0, 1) for _ in range(4)] for name in old or {}}
        return [
            StepCheck(
                step=3 * n, targets={"t": self.play(tasks, rate)}, old={name: self.play(others[name], old[name][n]) for name in old or {}}
            )
            for n, rate in enumerate(targets)
        ]

    def play(self, tasks: Sequence[float], rate: float) -> Scores:
        easy = math.log(rate / (1 - rate))
        return tuple(float(self.chance.random() < 1 / (1 + math.exp(-easy - task))) for task in tasks)


def mean_rate_of_choice(rates: Sequence[float], runs: int = 1000) -> float:
    """The true rate of the step that is chosen, on average."""
    model = Model(1)
    return sum(rates[best_step(model.job(rates)).step // 3] for _ in range(runs)) / runs


def test_noise_costs_a_rising_job_almost_nothing() -> None:
    assert mean_rate_of_choice([0.3, 0.45, 0.6, 0.7, 0.8]) > 0.78


def test_a_late_collapse_leaves_the_step_before_it() -> None:
    assert mean_rate_of_choice([0.3, 0.5, 0.7, 0.75, 0.01]) > 0.74
    assert mean_rate_of_choice([0.2, 0.3, 0.4, 0.4, 0.05]) > 0.38
    assert mean_rate_of_choice([0.3, 0.6, 0.8, 0.7, 0.4]) > 0.69


def test_a_flat_job_mostly_keeps_its_last_step() -> None:
    model = Model(2)
    steps = [best_step(model.job([0.4] * 5)).step for _ in range(1000)]
    assert steps.count(12) > 600


def test_noise_seldom_looks_like_a_fall() -> None:
    model = Model(3)
    flat = {name: [rate] * 2 for name, rate in zip("abcdefg", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.57), strict=True)}
    assert sum(bool(fallen(*model.job([0.4] * 2, flat))) for _ in range(1000)) < 50
    worse = {name: [0.9, 0.6] for name in "abcdefg"}
    assert sum(bool(fallen(*model.job([0.4] * 2, worse))) for _ in range(1000)) > 600


def ends(rates: Sequence[float], why: str, runs: int = 500) -> float:
    """How often a job with these true rates is ended for this reason."""
    model, found = Model(4), 0
    for _ in range(runs):
        checks = model.job(rates)
        reason = next((reason for n in range(len(checks)) if (reason := early_end(checks[: n + 1]))), "")
        found += why in reason
    return found / runs


def test_noise_seldom_ends_a_job() -> None:
    long = [0.3 + 0.5 * n / 10 for n in range(11)]
    assert ends([0.4] * 11, "collapsed") < 0.05
    assert ends([0.3, 0.5, 0.7, 0.45, 0.7, 0.75, 0.8, 0.8], "collapsed") < 0.03  # a dip that passes
    assert ends([0.3, 0.45, 0.6, 0.7, 0.8], "e") < 0.05
    assert ends(long, "not improved") < 0.12
    assert ends([0.4] * 11, "not improved") > 0.75
    assert ends([0.3, 0.5, 0.7] + [0.02] * 11, "collapsed") > 0.95


def test_with_one_more_check_the_choice_stays_or_becomes_the_new_step() -> None:
    """So it is enough to keep one set of weights."""
    chance = random.Random(5)
    for _ in range(300):
        checks = job([chance.randrange(17) for _ in range(9)], [chance.randrange(5) for _ in range(9)])
        for n in range(2, len(checks)):
            assert best_step(checks[: n + 1]) in (best_step(checks[:n]), checks[n])
