"""The pilots of a study of the kind `retaining-by-doing`: what their cells are called, and what they came to. Pure.

An arm counts once all its pilots have ended well. One whose pilots failed, by an error and not by a result, is set aside as a whole: what
it would have gained is not known, so it decides nothing. A pilot that learned nothing, or diverged, is a result: it has no checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from perdure.agent.metrics.observation import BASE_ARM, OBSERVATION
from perdure.agent.studies.cells import CellResult, Finished
from perdure.agent.studies.grid.grid_arms import Arm
from perdure.agent.studies.grid.grid_file import GridFile
from perdure.agent.studies.grid.matched_gain import Curve, DevCheck, Pilots
from perdure.agent.studies.grid.table_rows import CHECKPOINT, SAMPLED_DEV

UNTUNED = "as given"
"""In place of a rate, if the file has no pilots."""


def base_name(seed: int) -> str:
    """The cell that makes the home of a seed."""
    return f"base, seed {seed}"


def run_name(kind: str, arm: str, order: str, rate: float | None, seed: int, source_rate: float | None = None) -> str:
    """The cell of a run, or of a pilot; `source_rate` is that of the arm whose traces it learns from."""
    at = UNTUNED if rate is None else f"{rate:g}"
    traces = "" if source_rate is None else f" from traces at {source_rate:g}"
    return f"{kind}: {arm} on {order} at {at}{traces}, seed {seed}"


def pilot_name(arm: str, stream: str, rate: float | None, seed: int, source_rate: float | None = None) -> str:
    """The cell of a pilot."""
    return run_name("pilot", arm, stream, rate, seed, source_rate)


def pilot_names(file: GridFile, arm: Arm, stream: str, source_rate: float | None = None) -> list[str]:
    """The cells of all pilots of an arm."""
    assert file.pilots is not None
    rates = arm.rates or file.pilots.rates
    return [pilot_name(arm.name, stream, rate, seed, source_rate) for rate in rates for seed in file.pilots.seeds]


def have_ended(file: GridFile, finished: Finished, arm: Arm, stream: str, source_rate: float | None = None) -> bool:
    """Whether no pilot of an arm is left to do."""
    names = pilot_names(file, arm, stream, source_rate)
    return why_failed(file, finished, arm, stream, source_rate) is not None or all(name in finished for name in names)


def why_failed(file: GridFile, finished: Finished, arm: Arm, stream: str, source_rate: float | None = None) -> str | None:
    """The error of the first pilot of an arm that failed, or of the base of a pilot; None without any, or before all pilots have ended."""
    assert file.pilots is not None
    bases = [base_name(seed) for seed in file.pilots.seeds]
    errors = [f"{name}: {one.error}" for name in bases if (one := finished.get(name)) is not None and one.error is not None]
    if errors:
        return errors[0]
    found = [finished.get(name) for name in pilot_names(file, arm, stream, source_rate)]
    if any(one is None for one in found):
        return None
    return next((f"{one.name}: {one.error}" for one in found if one is not None and one.error is not None), None)


def pilots_of(file: GridFile, finished: Finished, arm: Arm, stream: str, source_rate: float | None = None) -> Pilots | None:
    """The curves of an arm's pilots by rate; None unless all have ended well."""
    assert file.pilots is not None
    ended = [finished.get(name) for name in pilot_names(file, arm, stream, source_rate)]
    if any(one is None or one.error is not None for one in ended):
        return None
    targets = file.streams[stream].targets[0]
    before = {seed: base_means(finished.get(base_name(seed)), SAMPLED_DEV) for seed in file.pilots.seeds}
    found: dict[float, list[Curve]] = {}
    for rate in arm.rates or file.pilots.rates:
        names = {seed: pilot_name(arm.name, stream, rate, seed, source_rate) for seed in before}
        curves = [curve_of(finished.get(name), before[seed], targets) for seed, name in names.items()]
        found[rate] = [curve for curve in curves if curve]
    return dict(found)


def curve_of(result: CellResult | None, before: Mapping[str, float], targets: Sequence[str]) -> list[DevCheck]:
    """The checkpoints of a run against the means of the base, on dev tasks; the gain is the mean over its targets."""
    curve = []
    for row in result.rows if result is not None else ():
        if row["kind"] == CHECKPOINT and all(name in row["means"] and name in before for name in targets):
            gains = [row["means"][name] - before[name] for name in targets]
            drops = [before[name] - mean for name, mean in row["means"].items() if name not in targets and name in before]
            curve.append(DevCheck(update=row["update"], gain=fmean(gains), drop=fmean(drops) if drops else None))
    return sorted(curve, key=lambda one: one.update)


def base_means(base: CellResult | None, measure: str) -> dict[str, float]:
    """The mean score of the base by environment or skill; nothing if it is not known."""
    found: dict[str, list[float]] = {}
    for row in base.rows if base is not None else ():
        if row["kind"] == OBSERVATION and row["arm"] == BASE_ARM and row["measure"] == measure:
            found.setdefault(row["subject"], []).append(row["score"])
    return {name: sum(scores) / len(scores) for name, scores in found.items()}
