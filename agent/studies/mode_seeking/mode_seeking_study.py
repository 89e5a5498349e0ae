"""`perdure study run mode-seeking`: its cells, one an arm, with all its seeds at once. `mode_seeking_summary.py` has what they come to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from perdure.agent.studies.cells import Cell, Desk, Finished, Study
from perdure.agent.studies.mode_seeking.exact_fit import ExactFit, fit_exactly
from perdure.agent.studies.mode_seeking.mixture import NEW_MEAN, Floats, ModeReading, Shape, at_gain, overlaps, readings
from perdure.agent.studies.mode_seeking.mode_seeking_arms import ModeSeekingArm, mode_seeking_arms
from perdure.agent.studies.mode_seeking.sampled_fit import SampledFit, fit
from perdure.memory.json_value import Document

NAME = "mode-seeking"
KIND = "mode-seeking fit"
"""Of its rows."""
SEEDS = 5
SMALL_SEEDS = 3
"""As many as the listed numbers have."""
SEEDS_OF_FARTHER = 2
"""Times as many: there it is a matter of chance whether the old mode is lost."""
CURVE_STEP = 0.01
"""A curve has a point if gain or drop has changed by this much since the last one."""


def mode_seeking_study(seeds: int = SEEDS, *, small: bool = False) -> Study:
    """Every arm with the seeds from 0 on; the small form has fewer arms."""

    def cells(finished: Finished) -> Sequence[Cell]:
        return [_cell(arm, seeds) for arm in mode_seeking_arms() if arm.in_small or not small]

    return Study(name=NAME, cells=cells)


def _cell(arm: ModeSeekingArm, seeds: int) -> Cell:
    if arm.part == "farther modes":
        seeds *= SEEDS_OF_FARTHER
    if isinstance(arm.fit, ExactFit):
        return Cell(name=arm.name, parameters={"arm": arm.name, **asdict(arm.fit)}, work=exact_cell, expected_s=0.5)
    seconds = 1e-4 * seeds * arm.fit.updates
    name = f"{arm.name}; {seeds} seeds"
    return Cell(name=name, parameters={"arm": arm.name, "seeds": seeds, **asdict(arm.fit)}, work=sampled_cell, expected_s=seconds)


def sampled_cell(parameters: Document, desk: Desk) -> Iterator[Document]:
    """A fit with samples: a row for each seed."""
    arm, seeds = parameters["arm"], range(parameters["seeds"])
    conditions = SampledFit(**{name: value for name, value in parameters.items() if name not in ("arm", "seeds")})
    for seed, path_T5 in zip(seeds, fit(conditions, seeds), strict=True):
        yield _row(arm, seed, path_T5, conditions.shape, conditions.new_mean)


def exact_cell(parameters: Document, desk: Desk) -> Iterator[Document]:
    """A fit with exact gradients: one row, without a seed."""
    conditions = ExactFit(**{name: value for name, value in parameters.items() if name != "arm"})
    yield _row(parameters["arm"], None, fit_exactly(conditions), "bi-modal", NEW_MEAN)


def _row(arm: str, seed: int | None, path_T5: Floats, shape: Shape, new_mean: float) -> Document:
    found = readings(path_T5, shape, new_mean)
    start_old, start_new = (float(covered[0]) for covered in overlaps(path_T5[:1], shape, new_mean))
    gained = at_gain(found)
    curve = thinned(found)
    return {
        "kind": KIND,
        "arm": arm,
        "seed": seed,
        "start_overlap": {"old": start_old, "new": start_new},
        "at_gain": None if gained is None else _reading_document(gained),
        "end": _reading_document(found[-1]),
        "curve": {
            "update": [None, *(reading.update for reading in curve)],
            "gain": [0.0, *(round(reading.gain, 4) for reading in curve)],
            "drop": [0.0, *(round(reading.drop, 4) for reading in curve)],
        },
    }


def thinned(found: Sequence[ModeReading]) -> list[ModeReading]:
    """The readings that a curve needs: those that differ from the one before, the first with gain .9, and the last."""
    gained, kept = at_gain(found), list[ModeReading]()
    for reading in found:
        moved = not kept or max(abs(reading.gain - kept[-1].gain), abs(reading.drop - kept[-1].drop)) >= CURVE_STEP
        if moved or reading is gained or reading is found[-1]:
            kept.append(reading)
    return kept


def _reading_document(reading: ModeReading) -> Document:
    return asdict(reading)
