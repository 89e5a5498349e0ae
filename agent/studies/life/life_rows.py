"""A life study as rows of the table that all metrics read, so that its lives are reported as the runs of any other study are.

A stage of a life is a job with a verdict, and its scores are those of the version that served afterwards, so that a refused job repeats the
scores before it. A stage of a naive life is a job that made a version; the joint job is one stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from perdure.agent.metrics.observation import Observation, ResultTable, StageFacts
from perdure.agent.studies.cells import CellResult
from perdure.agent.studies.life.life_arms import JOINT, LIFE, NAIVE
from perdure.agent.studies.life.life_study import FIRST, cell_name
from perdure.memory.json_value import Document

MOMENT_MINUTES = 0.01
"""Between the end of a job and the promotion that it led to, in either order."""
MEASURE = "sampled"


class _Served(NamedTuple):
    """The version that serves after a stage."""

    arm: str
    stage: int
    version: str


def life_rows(cells: Mapping[str, CellResult]) -> ResultTable:
    """The rows of all lives in a study, with what is not finished left out; a study of several lengths has them as its orders."""
    lives = [result for name, result in cells.items() if name.endswith(f": {LIFE}") and result.error is None and result.rows]
    lengths = {result.parameters["hours"] for result in lives}
    observations: list[Observation] = []
    facts: list[StageFacts] = []
    for life in lives:
        seed, hours = life.parameters["seed"], life.parameters["hours"]
        order = f"{hours:g} h" if len(lengths) > 1 else ""
        served, stages = _of_seed(cells, life, order)
        facts += stages
        scores = _probed(cells, seed, hours)
        for at in served:
            for subject, found in scores.get((LIFE if at.version == FIRST else at.arm, at.version), {}).items():
                observations += (
                    Observation(
                        arm=at.arm,
                        order=order,
                        seed=seed,
                        stage=at.stage,
                        subject=subject,
                        item=str(task),
                        measure=MEASURE,
                        score=score,
                    )
                    for task, score in enumerate(found)
                    if score is not None
                )
    return ResultTable(observations=tuple(observations), facts=tuple(facts))


def _of_seed(cells: Mapping[str, CellResult], life: CellResult, order: str) -> tuple[list[_Served], list[StageFacts]]:
    seed, hours = life.parameters["seed"], life.parameters["hours"]
    (history,) = life.rows
    served = [_Served(arm, 0, FIRST) for arm in (LIFE, NAIVE, JOINT)]
    facts: list[StageFacts] = []
    judged = [job for job in history["jobs"] if job["verdict"] is not None and job["ended"] is not None]
    for stage, job in enumerate(judged, start=1):
        served.append(_Served(LIFE, stage, _serving_after(history, job["ended"])))
        facts.append(
            StageFacts(
                arm=LIFE,
                order=order,
                seed=seed,
                stage=stage,
                targets=tuple(job["targets"]),
                updates=job["updates"],
                seconds=job.get("learn_s") or 0.0,
                verdict=job["verdict"],
                note=job["reason"],
            )
        )
    for arm in (NAIVE, JOINT):
        result = cells.get(cell_name(seed, hours, arm))
        if result is None or result.error is not None:
            continue
        for stage, row in enumerate(result.rows, start=1):
            targets = row.get("targets") or history["environments"]
            served.append(_Served(arm, stage, row["version"]))
            facts.append(StageFacts(arm=arm, order=order, seed=seed, stage=stage, targets=tuple(targets), updates=row["updates"]))
    begun = {fact.arm for fact in facts} | {LIFE}
    return [at for at in served if at.arm in begun], facts


def _serving_after(history: Document, minute: float) -> str:
    """The version that served after a job that ended at this minute of the life."""
    moves = [move["version"] for move in history["served"] if move["minute"] <= minute + MOMENT_MINUTES]
    return str(moves[-1] if moves else FIRST)


def _probed(cells: Mapping[str, CellResult], seed: int, hours: float) -> dict[tuple[str, str], dict[str, list[float | None]]]:
    """The scores of each probed version by environment, from its largest probe."""
    found: dict[tuple[str, str], dict[str, list[float | None]]] = {}
    most: dict[tuple[str, str], int] = {}
    for result in _probes(cells):
        own = result.parameters
        key = (own["arm"], own["version"])
        if (own["seed"], own["hours"]) == (seed, hours) and own["tasks"] > most.get(key, 0):
            most[key] = own["tasks"]
            found[key] = {row["environment"]: row["scores"] for row in result.rows}
    return found


def _probes(cells: Mapping[str, CellResult]) -> Iterator[CellResult]:
    yield from (result for result in cells.values() if "version" in result.parameters and result.error is None)
