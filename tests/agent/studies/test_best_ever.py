"""The best ever against the present: luck is not taken for a loss, and a loss is found."""

from __future__ import annotations

from math import isclose
from random import Random

import pytest

from perdure.agent.studies.life.best_ever import FALL, TaskScores, best_ever, mean_difference, paired_difference

LIVES, ENVIRONMENTS, TASKS = 300, 8, 200


def scores(rng: Random, success: float) -> TaskScores:
    return [float(rng.random() < success) for _ in range(TASKS)]


def life(rng: Random, rates: list[float]) -> dict[str, TaskScores]:
    """One environment: each version with its own success rate."""
    return {f"v{n}": scores(rng, rate) for n, rate in enumerate(rates)}


@pytest.mark.simulation
@pytest.mark.parametrize("rate", [0.3, 0.5, 0.8, 0.95])
def test_where_nothing_was_lost_a_fall_is_found_in_at_most_a_twentieth_of_lives(rate: float) -> None:
    rng = Random(int(100 * rate))
    found = plain = 0
    for _ in range(LIVES):
        versions = [life(rng, [rate / 2, *[rate] * 9]) for _ in range(ENVIRONMENTS)]  # it rose once, and then held
        found += any(best_ever(one, list(one)).fell for one in versions)
        plain += any(max(map(mean, one.values())) - mean(one["v9"]) > FALL for one in versions)
    assert found <= 0.05 * LIVES
    assert plain > 0.1 * LIVES  # what the maximum over the versions would claim


def test_a_loss_of_thirty_points_is_found() -> None:
    rng = Random(0)
    found = [best_ever(one, list(one)).fell for one in (life(rng, [0.4, 0.9, 0.9, 0.6]) for _ in range(50))]
    assert sum(found) >= 48


def test_the_present_version_is_compared_with_itself_if_it_is_the_best() -> None:
    rng = Random(1)
    one = best_ever(life(rng, [0.2, 0.5, 0.9]), ["v0", "v1", "v2"])
    assert (one.best, one.lost.mean, one.fell) == ("v2", 0.0, False)


def test_of_equals_the_newest_is_the_best() -> None:
    same: TaskScores = [1.0, 0.0] * 10
    assert best_ever({"v0": same, "v1": same}, ["v0", "v1"]).best == "v1"


def test_only_versions_that_served_count() -> None:
    rng = Random(2)
    assert best_ever(life(rng, [0.2, 0.9, 0.5]), ["v0", "v2"]).best == "v2"
    with pytest.raises(ValueError, match="no scores of v7"):
        best_ever({}, ["v7"])


def test_paired_differences_by_hand() -> None:
    """Differences 1, 0, 1, 0 have mean .5 and variance 1/3; t(.975, 3) = 3.182. A failed task is left out on both sides."""
    found = paired_difference([1.0, 1.0, None, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0, 0.0, None])
    assert (found.mean, found.n) == (0.5, 4)
    assert isclose(found.high - 0.5, 3.182 * (1 / 3 / 4) ** 0.5, rel_tol=0.02)
    assert isclose(found.high - 0.5, 0.5 - found.low)


def test_the_mean_over_environments_adds_their_variances() -> None:
    first = {"a": [1.0, 0.0] * 50, "b": [1.0] * 100}
    second = {"a": [0.0, 0.0] * 50, "b": [0.0, 1.0] * 50}
    one = paired_difference(first["a"], second["a"])
    both = mean_difference(first, second)
    assert both.mean == 0.5
    assert isclose(both.high - both.mean, (one.high - one.mean) / 2**0.5, rel_tol=0.02)


def mean(values: TaskScores) -> float:
    return sum(value or 0.0 for value in values) / len(values)
