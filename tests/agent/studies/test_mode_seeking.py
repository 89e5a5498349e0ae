"""The mixture of two modes: its overlaps and gradients against independent formulas, and every number that is listed for seeds 0 to 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from tests.agent.conftest import Call

from perdure.agent.studies.cells import CellResult, Desk
from perdure.agent.studies.mode_seeking.exact_fit import ExactFit, fit_exactly
from perdure.agent.studies.mode_seeking.mixture import GRID_POINTS, START, Floats, ModeReading, at_gain, grid, overlaps
from perdure.agent.studies.mode_seeking.mode_seeking_arms import ListedNumbers, mode_seeking_arms
from perdure.agent.studies.mode_seeking.mode_seeking_page import mode_seeking_page
from perdure.agent.studies.mode_seeking.mode_seeking_plots import plot_mode_seeking
from perdure.agent.studies.mode_seeking.mode_seeking_study import mode_seeking_study, thinned
from perdure.agent.studies.mode_seeking.mode_seeking_summary import claims, differences, mode_seeking_document
from perdure.agent.studies.mode_seeking.sampled_fit import SAMPLES, Direction, SampledFit, fit
from perdure.memory.json_value import Document

SHIFT = 1e-5
"""Of a parameter, for a derivative by differences."""
NEAR = 1e-6


def log_normal(x: Floats, mean: float, deviation: float) -> Floats:
    return np.asarray(-0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation * np.sqrt(2 * np.pi)))


def log_mixture(x: Floats, learner: Floats) -> Floats:
    weight, mean, deviation, second_mean, second_deviation = learner
    first = np.log(weight) + log_normal(x, mean, deviation)
    return np.asarray(np.logaddexp(first, np.log(1 - weight) + log_normal(x, second_mean, second_deviation)))


def slope(value: Callable[[Floats], float], learner: Floats) -> Floats:
    """The derivatives of a function of the learner, by differences."""
    shifts = SHIFT * np.eye(len(learner))
    return np.array([(value(learner + shift) - value(learner - shift)) / (2 * SHIFT) for shift in shifts])


def first_step(direction: Direction, replay: float, seed: int, *, baseline: bool = False) -> tuple[Floats, Floats]:
    """What a fit changes in its first update, over its rate, and the standard normal numbers that it saw."""
    conditions = SampledFit(shape="bi-modal", direction=direction, rate=NEAR, updates=1, slow_factor=1.0, replay=replay, baseline=baseline)
    path = fit(conditions, [seed])[0]
    return (path[1] - path[0]) / NEAR, np.random.RandomState(seed).standard_normal(SAMPLES)


def results(arms: set[str], seeds: int = 3) -> dict[str, CellResult]:
    """Cells of the study that are done, of these parts."""
    parts = {arm.name: arm.part for arm in mode_seeking_arms()}
    cells = [cell for cell in mode_seeking_study(seeds).cells({}) if parts[cell.parameters["arm"]] in arms]
    desk = Desk(folder=Path(), say=print)
    return {
        cell.name: CellResult(
            name=cell.name, parameters=cell.parameters, made_by="here", seconds=1.0, rows=tuple(cell.work(cell.parameters, desk))
        )
        for cell in cells
    }


def test_overlaps_are_those_worked_by_hand() -> None:
    """Two normal distributions with deviation 1 and means d apart have 2 Phi(-d / 2) in common."""
    start = np.array([START["bi-modal"]])
    old, new = overlaps(start, "bi-modal")
    assert old[0] == pytest.approx(2 * NormalDist().cdf(-0.25), abs=1e-4)
    assert new[0] == pytest.approx(2 * NormalDist().cdf(-1.5 / 0.7), abs=1e-4)
    there = np.array([(0.75, -3.0, 1.0, 3.5, 0.7)])
    assert [float(covered[0]) for covered in overlaps(there, "bi-modal")] == pytest.approx([1.0, 1.0])
    old, new = overlaps(np.array([START["uni-modal"]]), "uni-modal")
    assert (old[0], new[0]) == pytest.approx((0.900, 0.0), abs=5e-4)


@pytest.mark.parametrize("replay", [0.0, 0.3])
def test_forward_steps_climb_the_mean_log_density_of_the_samples(replay: float) -> None:
    """With the floor under the density."""
    found, noise = first_step("forward", replay, seed=4)
    old = round(replay * SAMPLES)
    x = np.concatenate([-3.0 + noise[:old], 3.5 + 0.7 * noise[old:]])
    wanted = slope(lambda learner: float(np.mean(np.log(np.exp(log_mixture(x, learner)) + 1e-12))), np.array(START["bi-modal"]))
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("replay", [0.0, 0.3])
def test_reverse_steps_climb_the_weighted_reward(replay: float, baseline: bool) -> None:
    """Reward and importance weight stay as they are while the log density is differentiated."""
    found, noise = first_step("reverse", replay, seed=4, baseline=baseline)
    start = np.array(START["bi-modal"])
    weight, mean, deviation, second_mean, second_deviation = start
    old = round(replay * SAMPLES)
    x = np.concatenate([mean + deviation * noise[:old], second_mean + second_deviation * noise[old:]])
    first = np.log(weight) + log_normal(x, mean, deviation)
    own = np.where(np.arange(SAMPLES) < old, first, np.log(1 - weight) + log_normal(x, second_mean, second_deviation))
    wanted_mode = np.concatenate([log_normal(x[:old], -3.0, 1.0), log_normal(x[old:], 3.5, 0.7)])
    reward = wanted_mode - own - np.log(0.1)
    if baseline:
        reward -= np.where(np.arange(SAMPLES) < old, reward[:old].mean() if old else 0.0, reward[old:].mean())
    factor = reward * np.exp(log_mixture(x, start) - own)
    wanted = slope(lambda learner: float(np.mean(factor * log_mixture(x, learner))), start)
    assert found == pytest.approx(wanted, rel=0.01, abs=1e-3)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("target", ["the new mode", "both modes"])
def test_exact_steps_descend_the_divergence(direction: Any, target: Any) -> None:
    path = fit_exactly(ExactFit(direction=direction, target=target, rate=NEAR, updates=1))
    x = grid("bi-modal")
    new = np.exp(log_normal(x, 3.5, 0.7))
    p = new if target == "the new mode" else 0.75 * np.exp(log_normal(x, -3.0, 1.0)) + 0.25 * new

    def free(learner: Floats) -> Floats:
        return np.array([np.log(learner[0] / (1 - learner[0])), learner[1], np.log(learner[2]), learner[3], np.log(learner[4])])

    def divergence(unbounded: Floats) -> float:
        learner = np.array([1 / (1 + np.exp(-unbounded[0])), unbounded[1], np.exp(unbounded[2]), unbounded[3], np.exp(unbounded[4])])
        log_q = log_mixture(x, learner)
        values = p * (np.log(p) - log_q) if direction == "forward" else np.exp(log_q) * (log_q - np.log(p))
        return float(np.trapezoid(values, x))

    found = (free(path[1]) - free(path[0])) / NEAR
    assert found == pytest.approx(-slope(divergence, free(path[0])), rel=1e-3, abs=1e-4)


def test_the_drop_is_read_when_the_gain_is_first_reached() -> None:
    found = [ModeReading(update=n, gain=gain, drop=0.1 * n, old_weight=0.5) for n, gain in enumerate((0.2, 0.91, 0.5, 0.95))]
    assert at_gain(found) == found[1]
    assert at_gain(found[:1]) is None


def test_a_curve_has_the_points_at_which_something_changes() -> None:
    """Here also the first with gain .9, though it differs little, and the last."""
    gains = [0.0, 0.5, 0.501, 0.5, 0.895, 0.901, 0.902, 0.903]
    found = [ModeReading(update=n, gain=gain, drop=0.0, old_weight=0.5) for n, gain in enumerate(gains)]
    assert [reading.update for reading in thinned(found)] == [0, 1, 4, 5, 7]


def test_the_published_numbers_and_our_check_come_out() -> None:
    document = mode_seeking_document(results({"as published", "one exact rate"}))
    assert document["ok"]
    assert [arm["differs"] for arm in document["arms"]] == [[]] * 9
    assert {claim["about"]: claim["holds"] for claim in document["claims"]} == {
        "one mode: forward forgets less than reverse": True,
        "two modes: reverse forgets less than forward": True,
        "one exact rate: reverse to the new mode forgets less than forward to it": False,
        "one exact rate: forward to both modes (replay) forgets less than forward to the new one": True,
        "one exact rate: reverse to both modes forgets less than reverse to the new one, at gain .9": False,
    }


@pytest.mark.long
@pytest.mark.simulation
def test_every_listed_number_comes_out_and_the_result_rests_on_the_slow_factor(tmp_path: Path) -> None:
    document = mode_seeking_document(results({"slow factor", "farther modes", "baseline", "replay", "rates"}, seeds=1))
    assert document["ok"]
    holds = {claim["about"]: claim["holds"] for claim in document["claims"]}
    assert holds["the same with slow factor 0.005, forward at rate 0.15"]
    assert not holds["the same with slow factor 1, forward at rate 0.15"]
    assert not holds["the same after 2000 updates, forward at rate 0.01"]
    assert holds["reverse with a baseline, slow factor 0.05: it forgets less than forward at rate 0.01"]
    assert holds["reverse, slow factor 0.005: a baseline forgets less than none, after 2000 updates"]
    assert all(holds[f"forward, slow factor {factor}: replay 0.5 forgets less than none"] for factor in ("0.005", "0.05", "0.2", "1"))
    page = mode_seeking_page(document, [])
    assert "| bi-modal reverse, new mode at 6.5 | 2 |" in page
    pytest.importorskip("matplotlib")
    for path in plot_mode_seeking(document, tmp_path):
        assert "<text" in path.read_text()


def test_what_differs_from_the_list_is_named() -> None:
    listed = ListedNumbers(update=(82, 86), drop=(0.124, 0.129), end_drop=(0.2,))
    rows = [_row(0, 88, 0.133, 0.29), _row(1, None, None, 0.29)]
    assert list(differences(listed, rows)) == [
        "seed 0: update 88, listed 82",
        "seed 1: update never, listed 86",
        "seed 1: drop never, listed 0.129",
        "seed 0: end_drop 0.29, listed 0.2",
    ]


def test_a_claim_needs_every_seed() -> None:
    claim = next(claim for claim in claims() if claim.at == "gain")
    for drops, holds in (((0.1, 0.2), True), ((0.1, 0.31), False), ((0.1, None), False), ((0.295, 0.296), False)):
        rows = {
            claim.less: [_row(seed, 5, drop, 0.0) for seed, drop in enumerate(drops)],
            claim.more: [_row(seed, 5, 0.3, 0.0) for seed in range(2)],
        }
        named = [{**row, "arm": arm} for arm, found in rows.items() for row in found]
        result = CellResult(name="x", parameters={}, made_by="x", seconds=1.0, rows=tuple(named))
        (found,) = mode_seeking_document({"x": result})["claims"]
        assert found["holds"] is holds, drops


def test_arms_have_names_of_their_own_and_claims_are_about_them() -> None:
    names = [arm.name for arm in mode_seeking_arms()]
    assert len(set(names)) == len(names)
    assert {name for claim in claims() for name in (claim.less, claim.more)} <= set(names)
    assert len(mode_seeking_study(3, small=True).cells({})) < len(mode_seeking_study(3).cells({})) == len(names)
    assert GRID_POINTS == 500


def test_the_command_names_every_cell(perdure: Call, tmp_path: Path) -> None:
    refused = perdure("study", "run", "mode-seeking", "--hours", "1")
    assert refused.code == 2
    assert "--hours is for the study life" in refused.err
    listed = json.loads(perdure("study", "list", "--json", "--keep", str(tmp_path)).out)
    assert "mode-seeking" in {row["name"] for row in listed}


def _row(seed: int, update: int | None, drop: float | None, end_drop: float) -> Document:
    at = None if drop is None else {"update": update, "gain": 0.91, "drop": drop, "old_weight": 0.6}
    end = {"update": 199, "gain": 0.95, "drop": end_drop, "old_weight": 0.5}
    return {
        "arm": "",
        "seed": seed,
        "at_gain": at,
        "end": end,
        "start_overlap": {"old": 0.8, "new": 0.0},
        "curve": {"update": [], "gain": [], "drop": []},
    }
