"""The metrics against other libraries, where these are installed: Avalanche, scikit-learn, SciPy."""

from __future__ import annotations

import warnings
from random import Random

import pytest
from tests.agent.metrics.worked_example import matrix_of

from perdure.agent.metrics.formulas.accuracy import average_accuracy
from perdure.agent.metrics.formulas.calibration import brier_score
from perdure.agent.metrics.formulas.forgetting_measures import forgetting_since_learned
from perdure.agent.metrics.formulas.learning_speed import area_under_curve
from perdure.agent.metrics.formulas.transfer import backward_transfer, forward_transfer
from perdure.agent.metrics.measured_run import Point
from perdure.agent.metrics.seed_intervals import chance_of_more, estimate, exact_share, student_quantile

pytestmark = pytest.mark.peers

TASKS = 6


@pytest.mark.parametrize("seed", range(5))
def test_transfer_and_forgetting_agree_with_avalanche(seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        peer = pytest.importorskip("avalanche.evaluation.metrics", exc_type=ImportError)
    rng = Random(seed)
    rows = [[rng.random() for _ in range(TASKS)] for _ in range(TASKS + 1)]
    forgetting, backward, forward = peer.Forgetting(), peer.BWT(), peer.ForwardTransfer()
    for task in range(TASKS):
        forgetting.update(task, rows[task + 1][task], initial=True)
        backward.update(task, rows[task + 1][task], initial=True)
        forward.update(task, rows[0][task], initial=True)
        forward.update(task, rows[task][task])
    for task in range(TASKS - 1):
        forgetting.update(task, rows[-1][task])
        backward.update(task, rows[-1][task])
    matrix = matrix_of(rows)
    assert forgetting_since_learned(matrix) == pytest.approx(mean(forgetting.result()))
    assert backward_transfer(matrix) == pytest.approx(mean(backward.result()))
    assert forward_transfer(matrix) == pytest.approx(mean({task: value for task, value in forward.result().items() if task > 0}))
    assert average_accuracy(matrix) == pytest.approx(sum(rows[-1]) / TASKS)


@pytest.mark.parametrize("seed", range(5))
def test_areas_and_calibration_agree_with_scikit_learn(seed: int) -> None:
    peer = pytest.importorskip("sklearn.metrics")
    rng = Random(seed)
    curve = [Point(update, rng.random()) for update in sorted(rng.sample(range(100), 9))]
    wanted = peer.auc([point.update for point in curve], [point.score for point in curve]) / (curve[-1].update - curve[0].update)
    assert area_under_curve(curve) == pytest.approx(wanted)
    confidences, rights = [rng.random() for _ in range(50)], [float(rng.random() < 0.5) for _ in range(50)]
    assert brier_score(confidences, rights) == pytest.approx(peer.brier_score_loss(rights, confidences))


@pytest.mark.parametrize("seed", range(5))
def test_intervals_and_tests_agree_with_scipy(seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = Random(seed)
    few, many = [rng.gauss(0.1, 0.2) for _ in range(5)], [rng.expovariate(1) for _ in range(14)]
    found, peer = estimate(few), stats.ttest_1samp(few, 0.0)
    assert (found.low, found.high) == pytest.approx(tuple(peer.confidence_interval()))
    assert chance_of_more(few) == pytest.approx(stats.ttest_1samp(few, 0.0, alternative="greater").pvalue)
    boot, peer = estimate(many), stats.bootstrap((many,), lambda values, axis: values.mean(axis=axis), method="BCa", rng=seed)
    by_t = stats.ttest_1samp(many, 0.0).confidence_interval()
    wider = (min(peer.confidence_interval.low, by_t.low), max(peer.confidence_interval.high, by_t.high))
    assert (boot.low, boot.high) == pytest.approx(wider, abs=0.05)
    right = rng.randrange(65)
    exact = stats.binomtest(right, 64).proportion_ci(method="exact")
    assert exact_share(right, 64) == pytest.approx(tuple(exact))
    for probability in (0.8, 0.95, 0.975, 0.9995):
        for freedom in (1, 2.5, 7, 200):
            assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom))


def mean(by_task: dict[int, float]) -> float:
    return sum(by_task.values()) / len(by_task)
