"""What a study of the kind `retaining-by-doing` decides from its dev scores: the matched gain, the rates, what each run delivers. Pure.

Cells are found by their names, which say all in which they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from perdure.agent.metrics.observation import BASE_ARM, OBSERVATION
from perdure.agent.studies.cells import CellResult, Finished, done
from perdure.agent.studies.grid.grid_arms import GridRun, arms
from perdure.agent.studies.grid.grid_file import GridFile
from perdure.agent.studies.grid.matched_gain import (
    Chosen,
    Curve,
    DevCheck,
    Pilots,
    best_gain,
    chosen_checkpoint,
    chosen_rate,
    matched_gain,
)
from perdure.agent.studies.grid.table_rows import CHECKPOINT, SAMPLED_DEV

UNTUNED = "as given"
"""In place of a rate, if the file has no pilots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What the pilots came to."""

    gains: Mapping[str, float]
    """The matched gain by stream; a stream on which no arm learned has none."""
    rates: Mapping[tuple[str, str], float | None]
    """By arm and stream; None: that of its options. An arm whose pilots all failed is missing."""
    best: Mapping[tuple[str, str], float]
    """The best gain of the pilots, by arm and stream."""


def base_name(seed: int) -> str:
    return f"base, seed {seed}"


def run_name(kind: str, arm: str, order: str, rate: float | None, seed: int) -> str:
    return f"{kind}: {arm} on {order} at {UNTUNED if rate is None else f'{rate:g}'}, seed {seed}"


def name_of_test(run: str, update: int, *, delivered: bool) -> str:
    return f"test of {run}, update {update}{', delivered' if delivered else ''}"


def decisions(file: GridFile, finished: Finished) -> Decisions:
    """The matched gains and the rates, if all pilots have ended."""
    if file.pilots is None:
        return Decisions(gains={}, rates={(arm.name, stream): None for stream in file.grid.streams for arm in arms(file, stream)}, best={})
    pilots = {stream: pilots_of(file, finished, stream) for stream in file.grid.streams}
    gains = {stream: gain for stream, found in pilots.items() if (gain := matched_gain(found, file.match.least)) is not None}
    rates, best = {}, {}
    for stream, found in pilots.items():
        for arm, of_arm in found.items():
            rate = chosen_rate(of_arm, gains.get(stream, 1.0), file.match.tolerance)
            if rate is not None:
                rates[arm, stream] = rate
                best[arm, stream] = best_gain(of_arm) or 0.0
    return Decisions(gains=gains, rates=rates, best=best)


def pilots_of(file: GridFile, finished: Finished, stream: str) -> dict[str, Pilots]:
    """The curves of the pilots of one stream that are done, by arm and rate."""
    assert file.pilots is not None
    targets = file.streams[stream].targets[0]
    found: dict[str, dict[float, list[Curve]]] = {}
    for arm in arms(file, stream):
        for rate in arm.rates or file.pilots.rates:
            for seed in file.pilots.seeds:
                result = done(finished).get(run_name("pilot", arm.name, stream, rate, seed))
                curve = curve_of(result, finished.get(base_name(seed)), targets)
                found.setdefault(arm.name, {}).setdefault(rate, []).extend([curve] if curve else [])
    return {arm: dict(by_rate) for arm, by_rate in found.items()}


def curve_of(result: CellResult | None, base: CellResult | None, targets: Sequence[str]) -> list[DevCheck]:
    """The checkpoints of a run against the base, on dev tasks; the gain is the mean over its targets."""
    if result is None or base is None:
        return []
    before = base_means(base, SAMPLED_DEV)
    curve = []
    for row in result.rows:
        if row["kind"] == CHECKPOINT and all(name in row["means"] and name in before for name in targets):
            gains = [row["means"][name] - before[name] for name in targets]
            drops = [before[name] - mean for name, mean in row["means"].items() if name not in targets and name in before]
            curve.append(DevCheck(update=row["update"], gain=fmean(gains), drop=fmean(drops) if drops else None))
    return sorted(curve, key=lambda one: one.update)


def base_means(base: CellResult, measure: str) -> dict[str, float]:
    """The mean score of the base by environment or skill."""
    found: dict[str, list[float]] = {}
    for row in base.rows:
        if row["kind"] == OBSERVATION and row["arm"] == BASE_ARM and row["measure"] == measure:
            found.setdefault(row["subject"], []).append(row["score"])
    return {name: sum(scores) / len(scores) for name, scores in found.items()}


def delivered(file: GridFile, decided: Decisions, run: GridRun, finished: Finished) -> Chosen | None:
    """The checkpoint that a run delivers: that of the matched gain, else the last one. None if it has not ended, or failed."""
    curve = run_curve(decided, run, finished)
    if not curve:
        return None
    gain = decided.gains.get(run.stream)
    if gain is None:
        return Chosen(checkpoint=curve[-1], reached=file.pilots is None)
    return chosen_checkpoint(curve, gain, file.match.tolerance)


def run_curve(decided: Decisions, run: GridRun, finished: Finished) -> list[DevCheck]:
    """The checkpoints of a run."""
    if (run.arm.name, run.stream) not in decided.rates:
        return []
    name = run_name("run", run.arm.name, run.order, decided.rates[run.arm.name, run.stream], run.seed)
    return curve_of(done(finished).get(name), finished.get(base_name(run.seed)), targets_of(run))


def targets_of(run: GridRun) -> tuple[str, ...]:
    """What a run learns, all in one stage."""
    return tuple(run.stages[0])


def rate_of_best_gain(file: GridFile, finished: Finished, stream: str, arm: str) -> float | None:
    """The rate with the best gain among an arm's pilots; None before all have ended, or if all failed."""
    assert file.pilots is not None
    source = next(one for one in arms(file, stream) if one.name == arm)
    names = [run_name("pilot", arm, stream, rate, seed) for rate in source.rates or file.pilots.rates for seed in file.pilots.seeds]
    if any(name not in finished for name in names):
        return None
    of_arm = pilots_of(file, finished, stream).get(arm, {})
    best = {rate: gain for rate, curves in of_arm.items() if (gain := best_gain({rate: curves})) is not None}
    return max(best, key=lambda rate: best[rate], default=None)
