"""`perdure study run life`: its cells. Which versions are probed, and what the naive life and the joint job do, follows from the life."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perdure.agent.studies.cells import Cell, Finished, Study, done
from perdure.agent.studies.life.life_arms import (
    JOINT,
    LIFE,
    NAIVE,
    learn_jointly,
    learning_jobs,
    live_for_real,
    live_naively,
    probe_version,
)
from perdure.memory.json_value import Document

NAME = "life"


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeSize:
    """How much is lived and probed."""

    hours: float
    seeds: int
    tasks: int
    """Of each environment in a probe."""


FULL = LifeSize(hours=0.5, seeds=3, tasks=200)
SMALL = LifeSize(hours=0.1, seeds=1, tasks=50)
UPDATE_S, JOB_S, EPISODE_S = 7.0, 25.0, 0.03
"""Roughly, on two cores; only for the time left."""
FIRST = "v0"


def life_study(size: LifeSize, settings: str = "", *, beside: bool = True) -> Study:
    """Lives with seeds 0, 1, ..., each `beside` a naive life and a joint job. `settings`: TOML that all of them have, without a seed."""

    def cells(finished: Finished) -> Sequence[Cell]:
        return [cell for seed in range(size.seeds) for cell in _of_seed(seed, size, settings, done(finished), beside)]

    return Study(name=NAME, cells=cells)


def cell_name(seed: int, hours: float, what: str) -> str:
    return f"seed {seed}, {hours:g} h: {what}"


def probe_name(seed: int, hours: float, tasks: int, arm: str, version: str) -> str:
    return cell_name(seed, hours, f"{version} of the {arm} arm on {tasks} tasks")


def _of_seed(seed: int, size: LifeSize, settings: str, finished: Finished, beside: bool) -> Iterator[Cell]:
    """The parts of one seed that are known so far. The first version is the same in all arms, and is probed once."""
    hours, tasks = size.hours, size.tasks
    own: Document = {"seed": seed, "hours": hours} | ({"settings": settings} if settings else {})
    life = Cell(name=cell_name(seed, hours, LIFE), parameters=own, work=live_for_real, expected_s=hours * 3600, alone=True)
    yield life
    if life.name not in finished:
        return
    (history,) = finished[life.name].rows
    environments = history["environments"]

    def probe(arm: str, version: str) -> Cell:
        return Cell(
            name=probe_name(seed, hours, tasks, arm, version),
            parameters={**own, "arm": arm, "version": version, "tasks": tasks, "environments": environments},
            work=probe_version,
            expected_s=JOB_S + EPISODE_S * tasks * len(environments),
            alone=True,
        )

    yield from (probe(LIFE, version["name"]) for version in history["versions"] if version["on_disk"])
    jobs = learning_jobs(history)
    if not jobs or not beside:
        return
    updates = sum(job["updates"] for job in jobs)
    naive = Cell(
        name=cell_name(seed, hours, NAIVE),
        parameters={**own, "jobs": jobs},
        work=live_naively,
        expected_s=JOB_S * len(jobs) + UPDATE_S * updates,
        alone=True,
    )
    joint = Cell(
        name=cell_name(seed, hours, JOINT),
        parameters={
            **own,
            "learner": jobs[0]["learner"],
            "options": _without_updates(jobs[0]),
            "targets": environments,
            "updates": updates,
        },
        work=learn_jointly,
        expected_s=JOB_S + UPDATE_S * updates,
        alone=True,
    )
    for arm, cell in ((NAIVE, naive), (JOINT, joint)):
        yield cell
        if cell.name in finished:
            yield from (probe(arm, row["version"]) for row in finished[cell.name].rows)


def _without_updates(job: Document) -> Document:
    return {name: value for name, value in job["options"].items() if name != "updates"}
