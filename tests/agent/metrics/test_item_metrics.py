"""Flips, falls, calibration and coverage against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.agent.metrics.worked_example import facts, observation

from perdure.agent.metrics.formulas.calibration import brier_score, coverage, expected_calibration_error
from perdure.agent.metrics.formulas.flips import FlipCounts, count_flips, gained_share, lost_share, recall
from perdure.agent.metrics.formulas.stability import drawdown
from perdure.agent.metrics.formulas.transfer import normalised_stateless_gain, stateless_gain
from perdure.agent.metrics.measured_run import measured_runs
from perdure.agent.metrics.metric_table import run_metrics
from perdure.agent.metrics.observation import Observation, ResultTable, StageFacts
from perdure.agent.metrics.run_readings import RunsBeside

FLIPS = FlipCounts(kept=60, lost=12, gained=8, never=20)


def test_flips_are_counted_over_the_items_of_both_sides() -> None:
    before = {"1": 1.0, "2": 1.0, "3": 0.0, "4": 0.0, "only before": 1.0, "even": 0.5}
    after = {"1": 1.0, "2": 0.0, "3": 1.0, "4": 0.25, "only after": 1.0, "even": 0.75}
    assert count_flips(before, after) == FlipCounts(kept=1, lost=1, gained=2, never=1)


def test_recall_and_shares_by_hand() -> None:
    """Of 72 right before 60 are right after. The mean fell by 4 points only, though 12 of 100 items were lost."""
    assert recall(FLIPS) == pytest.approx(60 / 72)
    assert (lost_share(FLIPS), gained_share(FLIPS)) == (0.12, 0.08)
    assert recall(FlipCounts(gained=5, never=5)) is None
    assert lost_share(FlipCounts()) is None


def test_the_correction_for_guessing_by_hand() -> None:
    """Wrong before .28, after .32: with 3 choices guessing explains .28 x .32 / 2 = .0448 of either kind, with 2 more than all gains."""
    assert lost_share(FLIPS, 3) == pytest.approx(0.12 - 0.0448)
    assert gained_share(FLIPS, 3) == pytest.approx(0.08 - 0.0448)
    assert gained_share(FLIPS, 2) == 0.0
    with pytest.raises(ValueError, match="1 choices"):
        lost_share(FLIPS, 1)


def test_pure_guessing_on_both_sides_is_corrected_to_nothing() -> None:
    """4 choices, nothing known: right .25 each time, independently, so that .1875 of the items flip either way."""
    guesses = FlipCounts(kept=625, lost=1875, gained=1875, never=5625)
    assert lost_share(guesses, 4) == gained_share(guesses, 4) == pytest.approx(0.0)


def two_skills() -> list[Observation]:
    """`learned` is right on items 1 and 2 when learned and on 1 at the end; `kept` was right on 1, 2, 3 of the base, and is on 2, 3, 4."""
    rights = {(1, "learned"): "12", (2, "learned"): "1", (0, "kept"): "123", (1, "kept"): "1234", (2, "kept"): "234", (0, "learned"): ""}
    return [
        observation(stage, subject, float(item in right), item=item, measure=measure)
        for measure in ("greedy", "strict")
        for (stage, subject), right in rights.items()
        for item in "1234"
    ]


def test_recall_of_a_run_counts_a_target_since_it_was_learned_and_others_since_the_base() -> None:
    """1 of 2 of the target, and 2 of 3 of the other."""
    table = ResultTable(observations=tuple(two_skills()), facts=(facts(1, "learned"), facts(2, "x")))
    (run,) = measured_runs(table)
    metrics = run_metrics(run)
    assert metrics["recall"] == metrics["recall_free"] == pytest.approx(3 / 5)
    assert (metrics["flips_lost"], metrics["flips_gained"]) == (2 / 8, 1 / 8)
    assert metrics["recall_cued"] is None


def two_probes(*, with_greedy: bool) -> dict[str, float | None]:
    """A version with p = .3 that is asked ten tasks twice: right on 1, 2, 3 and on 3, 4, 5. Greedy answers are right on half both times."""
    rights = {(0, "a", "sampled"): "123", (1, "a", "sampled"): "345"}
    if with_greedy:
        rights |= {(0, "b", "greedy"): "12345", (1, "b", "greedy"): "12345"}
    rows = [
        observation(stage, subject, float(item in right), item=item, measure=measure)
        for (stage, subject, measure), right in rights.items()
        for item in "0123456789"
    ]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(facts(1, "x"),)))
    return run_metrics(run)


def test_recall_and_flips_stand_beside_what_they_are_if_nothing_changed() -> None:
    """Of 3 right before 1 is right after. By chance it is .3 x 3 = .9 of them, and .3 x .7 of ten tasks flip either way."""
    metrics = two_probes(with_greedy=False)
    assert (metrics["recall"], metrics["flips_lost"], metrics["flips_gained"]) == pytest.approx((1 / 3, 0.2, 0.2))
    assert (metrics["recall_chance"], metrics["flips_chance"]) == pytest.approx((0.3, 0.21))


def test_greedy_answers_of_an_unchanged_version_never_flip() -> None:
    """.9 of 3 and all of 5 are kept by chance; .21 x 10 of 20 tasks flip."""
    metrics = two_probes(with_greedy=True)
    assert metrics["recall"] == 6 / 8
    assert (metrics["recall_chance"], metrics["flips_chance"]) == pytest.approx((5.9 / 8, 2.1 / 20))


def test_without_sampled_answers_there_is_no_chance_to_tell() -> None:
    (run,) = measured_runs(ResultTable(observations=tuple(two_skills()), facts=(facts(1, "learned"), facts(2, "x"))))
    assert run_metrics(run)["recall_chance"] is run_metrics(run)["flips_chance"] is None


def test_the_deepest_fall() -> None:
    assert drawdown([0.2, 0.9, 0.5, 0.95, 0.6]) == pytest.approx(0.4)
    assert drawdown([0.1, 0.2, 0.3]) == drawdown([]) == 0.0


def test_calibration_by_hand() -> None:
    """Bins [0, .5) and [.5, 1]: two answers at .2, none right; two at .8 and 1, one right. ECE = 2/4 x .2 + 2/4 x |.5 - .9| = .3."""
    confidences, rights = [0.2, 0.2, 0.8, 1.0], [0.0, 0.0, 0.0, 1.0]
    assert expected_calibration_error(confidences, rights, bins=2) == pytest.approx(0.3)
    assert brier_score(confidences, rights) == pytest.approx((0.04 + 0.04 + 0.64 + 0.0) / 4)
    assert expected_calibration_error([], []) is brier_score([], []) is None
    with pytest.raises(ValueError, match=r"1\.2"):
        expected_calibration_error([1.2], [1.0])


def test_calibration_of_a_run_pairs_confidence_and_right_answers_at_the_end() -> None:
    rows = [
        *(observation(n, "a", p, item=item, measure="choice") for n in (0, 1) for item, p in [("1", 0.9), ("2", 0.3), ("3", 1.0)]),
        *(observation(1, "a", sure, item=item, measure="confidence") for item, sure in [("1", 0.9), ("2", 0.4), ("other", 0.5)]),
        observation(0, "a", 0.1, item="1", measure="confidence"),
    ]
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=(facts(1, "a"),)))
    assert run_metrics(run)["brier"] == pytest.approx((0.01 + 0.16) / 2)


def test_coverage_by_hand() -> None:
    """2 of 4 answers right: two drawn are both wrong in 1 of 6 cases. None right: never. An item with one answer is left out."""
    assert coverage([[1.0, 0.0, 1.0, 0.0], [0.0] * 4, [1.0]], 2) == pytest.approx((5 / 6 + 0) / 2)
    assert coverage([[1.0, 0.0, 0.0, 0.0]], 4) == 1.0
    assert coverage([[1.0]], 2) is None


def test_gain_against_the_stateless_self_by_hand() -> None:
    assert stateless_gain([0.5, 1.0], [0.5, 0.2]) == pytest.approx(0.4)
    assert normalised_stateless_gain([0.5, 1.0], [0.5, 0.2]) == pytest.approx(0.4 / 0.65)
    assert normalised_stateless_gain([1.0], [1.0]) is None


def test_a_stateless_run_stands_for_the_stateless_self() -> None:
    def run_of(arm: str, scores: tuple[float, ...]) -> ResultTable:
        rows = tuple(observation(stage, "a", score, arm=arm) for stage, score in enumerate(scores))
        return ResultTable(observations=rows, facts=(facts(1, "a", arm=arm), facts(2, "b", arm=arm)))

    (run,), (stateless,) = measured_runs(run_of("x", (0.1, 0.5, 0.9))), measured_runs(run_of("stateless", (0.1, 0.2, 0.4)))
    assert run_metrics(run)["stateless_gain"] == pytest.approx((0.4 + 0.8) / 2)
    assert run_metrics(run, RunsBeside(stateless=[stateless]))["stateless_gain"] == pytest.approx((0.3 + 0.5) / 2)


def test_divergence_and_cross_entropy_of_a_run() -> None:
    rows = (
        observation(1, "a", 0.5, measure="kl_new"),
        observation(2, "a", 0.2, measure="kl_new"),
        observation(2, "b", 0.4, measure="kl_new"),
        observation(0, "text", 2.0, measure="cross_entropy"),
        observation(2, "text", 2.25, measure="cross_entropy"),
    )
    (run,) = measured_runs(ResultTable(observations=rows, facts=(facts(1, "a"), facts(2, "b"))))
    metrics = run_metrics(run)
    assert metrics["kl_new"] == pytest.approx(0.3)
    assert metrics["kl_old"] is None
    assert metrics["cross_entropy"] == 0.25


def kl(stage: int, update: int | None, score: float, subject: str = "a") -> Observation:
    return observation(stage, subject, score, measure="kl_new", update=update)


def kl_new(rows: Sequence[Observation], *stages: StageFacts) -> float | None:
    (run,) = measured_runs(ResultTable(observations=tuple(rows), facts=stages))
    return run_metrics(run)["kl_new"]


def test_divergence_is_that_of_the_update_that_was_delivered() -> None:
    """As a grid writes it: KL at every checkpoint, and none at the end. The run delivers update 4 of 12, at the matched gain."""
    checks = [kl(1, update, score) for update, score in ((2, 0.02), (4, 0.05), (8, 0.2), (12, 0.4))]
    assert kl_new(checks, replace(facts(1, "a"), updates=4)) == 0.05
    assert kl_new(checks, replace(facts(1, "a"), updates=12)) == 0.4
    assert kl_new(checks, replace(facts(1, "a"), updates=6)) is None, "it was not measured there"
    assert kl_new(checks, replace(facts(1, "a"), updates=0)) == 0.4, "no number of updates is known"


def test_divergence_of_a_stage_is_averaged_over_its_subjects() -> None:
    """Stage 2 was measured after 10 updates on a and on b: .4 and .2."""
    rows = [kl(1, None, 0.9), kl(2, 3, 0.1), kl(2, 10, 0.4), kl(2, 10, 0.2, "b")]
    assert kl_new(rows, facts(1, "a"), facts(2, "b")) == pytest.approx(0.3)


@pytest.mark.parametrize("verdict", ["reject", "inconclusive"])
def test_divergence_of_a_refused_candidate_does_not_count(verdict: str) -> None:
    """Stage 2 was refused, so that what stage 1 made serves on."""
    rows = [kl(1, 10, 0.1), kl(2, 10, 0.7)]
    assert kl_new(rows, facts(1, "a"), replace(facts(2, "b"), verdict=verdict)) == 0.1
    assert kl_new(rows, facts(1, "a"), replace(facts(2, "b"), verdict="promote")) == 0.7
    assert kl_new(rows[1:], replace(facts(2, "b"), verdict=verdict)) == 0.0, "the base serves"


def test_divergence_of_a_later_version_that_was_not_measured_is_not_that_of_an_earlier_one() -> None:
    assert kl_new([kl(1, None, 0.9)], facts(1, "a"), facts(2, "b")) is None
