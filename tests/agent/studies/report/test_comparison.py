"""Two studies side by side: differences by hand, and what cannot be compared."""

from __future__ import annotations

import time

import pytest

from perdure.agent.metrics.observation import Observation, ResultTable, StageFacts
from perdure.agent.studies.report.comparison import ComparedScore, as_document, compare_studies
from perdure.memory.errors import InputError
from perdure.memory.json_value import to_json


def table(arm: str, by_seed: dict[int, list[float]], *, measure: str = "sampled", base: float = 0.0, order: str = "") -> ResultTable:
    """One stage that learns `word`; these are the scores of its items at the end."""
    rows = [
        Observation(arm=arm, order=order, seed=seed, stage=stage, subject="word", item=str(item), measure=measure, score=score)
        for seed, scores in by_seed.items()
        for stage, at in ((0, [base] * len(scores)), (1, scores))
        for item, score in enumerate(at)
    ]
    facts = [StageFacts(arm=arm, order=order, seed=seed, stage=1, targets=("word",), updates=10 * (1 + seed)) for seed in by_seed]
    return ResultTable(observations=tuple(rows), facts=tuple(facts))


def only_score(a: ResultTable, b: ResultTable) -> ComparedScore:
    (score,) = compare_studies(a, b).scores
    return score


def test_differences_are_paired_by_seed() -> None:
    """Differences .5, .25 and .75 have mean .5 and standard deviation .25; t(.975, 2) = 4.303, so the interval is +-.621."""
    a = table("grpo", {0: [1.0, 0.0, 0.0, 0.0], 1: [0.0, 0.0, 0.0, 0.0], 2: [0.0, 0.0, 0.0, 0.0]})
    b = table("grpo", {0: [1.0, 1.0, 1.0, 0.0], 1: [1.0, 0.0, 0.0, 0.0], 2: [1.0, 1.0, 1.0, 0.0]})
    score = only_score(a, b)
    assert (score.a, score.b, score.difference.value) == pytest.approx((1 / 12, 7 / 12, 0.5))
    assert (score.difference.n, score.difference.of, score.difference.method) == (3, "seeds", "t")
    assert (score.difference.low, score.difference.high) == pytest.approx((0.5 - 0.621, 0.5 + 0.621), abs=0.001)
    assert score.verdict == "not shown"
    assert score.seeds_needed == 5, "two-sided: (2.776 + .941)^2 / 4 is 3.5 with five, (3.182 + .978)^2 / 4 is 4.3 with four"
    assert score.flips is not None
    assert (score.flips.lost, score.flips.gained, score.flips.kept) == (0, 6, 1)


def test_with_one_run_items_are_paired() -> None:
    score = only_score(table("grpo", {0: [1.0, 1.0, 0.0, 1.0]}), table("grpo", {0: [0.0, 1.0, 0.0, 0.0]}))
    assert (score.difference.value, score.difference.of, score.difference.n) == (-0.5, "items", 4)
    assert score.flips is not None
    assert score.flips.lost == 2
    assert score.seeds_needed is None


def test_orders_of_one_seed_are_averaged_first() -> None:
    def both(second: list[float]) -> ResultTable:
        one, other = table("grpo", {0: [0.0, 0.0]}, order="s/order 1"), table("grpo", {0: second}, order="s/order 2")
        return ResultTable(observations=one.observations + other.observations, facts=one.facts + other.facts)

    score = only_score(both([0.0, 0.0]), both([1.0, 1.0]))
    assert (score.difference.value, score.difference.n, score.verdict) == (0.5, 1, "not shown")


def test_an_order_that_one_study_lacks_of_a_seed_is_left_out() -> None:
    """B is .5 better in each run; its run on the easy order with seed 1 failed."""

    def of(runs: dict[tuple[str, int], float]) -> ResultTable:
        tables = [table("grpo", {seed: [score]}, order=order) for (order, seed), score in runs.items()]
        return ResultTable(
            observations=tuple(row for one in tables for row in one.observations), facts=tuple(row for one in tables for row in one.facts)
        )

    a = of({("hard", 0): 0.0, ("easy", 0): 0.4, ("hard", 1): 0.1, ("easy", 1): 0.5})
    b = of({("hard", 0): 0.5, ("easy", 0): 0.9, ("hard", 1): 0.6})
    gain = next(one for one in compare_studies(a, b).metrics if one.metric == "gain")
    assert (gain.a, gain.b, gain.difference.value, gain.difference.n) == (pytest.approx(0.15), pytest.approx(0.65), pytest.approx(0.5), 2)


@pytest.mark.parametrize(("measure", "verdict"), [("sampled", "better"), ("cross_entropy", "worse"), ("confidence", "differs")])
def test_what_more_means_depends_on_the_measure(measure: str, verdict: str) -> None:
    a = table("grpo", {seed: [0.1, 0.2] for seed in range(3)}, measure=measure)
    b = table("grpo", {seed: [0.3, 0.4 + seed / 100] for seed in range(3)}, measure=measure)
    assert only_score(a, b).verdict == verdict


def test_seeds_that_all_differ_by_the_same_show_nothing() -> None:
    a = table("grpo", {seed: [0.0, 0.0] for seed in range(2)})
    b = table("grpo", {seed: [0.0, 1.0] for seed in range(2)})
    score = only_score(a, b)
    assert (score.difference.value, score.difference.low, score.verdict, score.seeds_needed) == (0.5, None, "not shown", None)


@pytest.mark.parametrize("items", [1, 20])
def test_an_interval_over_items_stays_within_what_scores_can_differ(items: int) -> None:
    score = only_score(table("grpo", {0: [0.0] * (items + 1)}), table("grpo", {0: [0.0, *[1.0] * items]}))
    assert score.difference.high == 1.0


def test_only_what_both_have_is_compared() -> None:
    a = table("grpo", {0: [1.0, 0.0], 1: [1.0, 1.0]})
    b = table("grpo", {1: [1.0, 0.0, 0.0], 2: [1.0, 1.0]})
    found = compare_studies(a, b)
    assert (found.runs, found.items, found.base_differs) == (1, 2, 0)
    updates = next(one for one in found.metrics if one.metric == "updates")
    assert (updates.a, updates.b, updates.difference.value) == (20, 20, 0)


def test_arms_are_measured_against_the_joint_arm_of_their_own_study() -> None:
    def study(own: float, joint: float) -> ResultTable:
        one, other = table("grpo", {0: [own], 1: [own]}), table("joint", {0: [joint], 1: [joint]})
        return ResultTable(observations=one.observations + other.observations, facts=one.facts + other.facts)

    found = compare_studies(study(0.5, 0.75), study(0.5, 1.0)).metrics
    against = next(one for one in found if (one.arm, one.metric) == ("grpo", "intransigence_joint"))
    assert (against.a, against.b) == (0.25, 0.5)


def test_many_arms_are_compared_in_seconds() -> None:
    """Fifteen arms, each with nine runs: every run is measured once a side, and not once for every other arm."""
    arms = [table(f"arm {n}", {seed: [0.1, 0.5] * 20 for seed in range(9)}) for n in range(15)]
    every = ResultTable(
        observations=tuple(row for one in arms for row in one.observations), facts=tuple(row for one in arms for row in one.facts)
    )
    started_s = time.process_time()
    assert compare_studies(every, every).runs == 135
    assert time.process_time() - started_s < 4


def test_another_base_is_told() -> None:
    assert compare_studies(table("grpo", {0: [1.0, 1.0]}), table("grpo", {0: [1.0, 1.0]}, base=0.5)).base_differs == 2


def test_two_arms_of_one_study() -> None:
    one, other = table("naive", {0: [0.0], 1: [0.0]}), table("replay", {0: [0.9], 1: [1.0]})
    both = ResultTable(observations=one.observations + other.observations, facts=one.facts + other.facts)
    found = compare_studies(both, both, ("naive", "replay"))
    assert found.arms == [("naive", "replay")]
    assert [(score.arm, score.difference.value) for score in found.scores] == [("replay - naive", 0.95)]
    gain = next(metric for metric in found.metrics if metric.metric == "gain")
    assert (gain.a, gain.b, gain.verdict) == (0.0, 0.95, "better")


def test_the_same_study_differs_in_nothing() -> None:
    one = table("grpo", {seed: [1.0, 0.0, 1.0] for seed in range(3)})
    found = compare_studies(one, one)
    assert {score.verdict for score in found.scores} | {metric.verdict for metric in found.metrics} == {"not shown"}
    assert {score.seeds_needed for score in found.scores} == {None}
    assert to_json(as_document(found)).count('"difference"') == len(found.scores) + len(found.metrics)


def test_what_cannot_be_compared_is_named() -> None:
    one, other = table("grpo", {0: [1.0]}), table("sft", {1: [1.0]})
    with pytest.raises(InputError, match=r"no arm in common: grpo in A, sft in B; --arms"):
        compare_studies(one, other)
    with pytest.raises(InputError, match="B has no arm grpo: it has sft"):
        compare_studies(one, other, ("grpo", "grpo"))
    with pytest.raises(InputError, match="no run in common"):
        compare_studies(one, other, ("grpo", "sft"))
