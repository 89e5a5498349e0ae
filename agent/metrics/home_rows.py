"""A home's own life as rows of the table: a stage for each version that served, in the order in which they served.

A stage's scores are all that its version scored on held-out seeds: in gates, on dev seeds, in probes, and on the capability panel. Gates
draw fresh seeds, so that two versions share the dev seeds and the probes, and otherwise have tasks of their own; the scores of a version
include those of the gate that promoted it, which are somewhat too high for its targets. A stage's costs are those of all learning jobs that
led up to it, of refused candidates too. What was learned in a version that was rolled back does not count as learned: it was given up
on purpose, and is no forgetting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perdure.agent.metrics.observation import Observation, ResultTable, StageFacts
from perdure.memory.contracts.orders import Job
from perdure.memory.contracts.results import LearnResult
from perdure.memory.evidence.answer_scores import answer_scores
from perdure.memory.evidence.item_scores import panel_scores
from perdure.memory.jobs import get_job, job_times, list_jobs, steps
from perdure.memory.store import Store
from perdure.memory.versions import Move, get_version, moves

HOME_ARM = "home"
MOST_JOBS = 100_000
TARGETS, OLD = "targets", "old environments"
"""The subjects of the divergences that a learning job measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedStage:
    """One version while it served."""

    stage: int
    version: str
    move: Move
    targets: tuple[str, ...]
    """What it learned since the stage before; none after a rollback, which learns nothing."""
    undone: bool
    """Whether a rollback gave it up, so that what serves now does not go on from it."""
    jobs: tuple[Job, ...]
    """Learning jobs that were begun before it was and have ended; for the last stage, also those since."""


def served_stages(store: Store) -> list[ServedStage]:
    """All stages of a home, the base first."""
    log, times = moves(store), job_times(store)
    learned = [job for job in reversed(list_jobs(store, MOST_JOBS)) if isinstance(job.result, LearnResult)]
    stages, standing = [], _standing(log)
    for n, move in enumerate(log):
        since = log[n - 1].moved if n else float("-inf")
        until = move.moved if n < len(log) - 1 else float("inf")
        stages.append(
            ServedStage(
                stage=n,
                version=move.to_version,
                move=move,
                targets=get_version(store, move.to_version).targets if move.kind == "promote" else (),
                undone=n not in standing,
                jobs=tuple(job for job in learned if since < (times[job.id].started or float("inf")) <= until),
            )
        )
    return stages


def _standing(log: Sequence[Move]) -> set[int]:
    """The moves that led to what serves now. A rollback goes back to those that had led to its version when it last served."""
    led_to: dict[str, list[int]] = {}
    now: list[int] = []
    for n, move in enumerate(log):
        now = [*(led_to.get(move.to_version, []) if move.kind == "rollback" else now), n]
        led_to[move.to_version] = now
    return set(now)


def home_table(store: Store, stages: Sequence[ServedStage]) -> ResultTable:
    """The rows of these stages."""
    return ResultTable(
        observations=(*_answers(store, stages), *_panel(store, stages), *_divergences(store, stages)),
        facts=tuple(_facts(stage) for stage in stages),
    )


def _answers(store: Store, stages: Sequence[ServedStage]) -> Iterator[Observation]:
    by_version: dict[str, list[int]] = {}
    for stage in stages:
        by_version.setdefault(stage.version, []).append(stage.stage)
    for answer in answer_scores(store, by_version):
        for number in by_version[answer.version]:
            measure = "sampled" if answer.temperature > 0 else "greedy"
            yield _row(number, answer.environment, str(answer.seed), measure, answer.score)


def _panel(store: Store, stages: Sequence[ServedStage]) -> Iterator[Observation]:
    """Items as the serving version was scored on them: scores of an older text of an item do not count."""
    now = panel_scores(store, stages[-1].version)
    for stage in stages:
        for key, scored in panel_scores(store, stage.version).items():
            if key not in now or now[key].content == scored.content:
                skill, item, measure = key
                yield _row(stage.stage, skill, item, measure, scored.score)


def _divergences(store: Store, stages: Sequence[ServedStage]) -> Iterator[Observation]:
    """KL from the base at the step that became the version, as its learning job measured it; 0 if the first version serves again."""
    for stage in stages[1:]:
        if stage.version == stages[0].version:
            yield _row(stage.stage, TARGETS, "the first version", "kl_new", 0.0)
            yield _row(stage.stage, OLD, "the first version", "kl_old", 0.0)
        job = get_version(store, stage.version).job
        result = None if job is None else get_job(store, job).result
        if job is None or not isinstance(result, LearnResult):
            continue
        drift = next((step.update.drift for step in steps(store, job) if step.n == result.selection.step), None)
        if drift is not None and drift.kl_base_new is not None:
            yield _row(stage.stage, TARGETS, f"job {job}", "kl_new", drift.kl_base_new)
        if drift is not None and drift.kl_base_old is not None:
            yield _row(stage.stage, OLD, f"job {job}", "kl_old", drift.kl_base_old)


def _facts(stage: ServedStage) -> StageFacts:
    costs = [job.result.cost for job in stage.jobs if isinstance(job.result, LearnResult)]
    return StageFacts(
        arm=HOME_ARM,
        seed=0,
        stage=stage.stage,
        targets=() if stage.undone else stage.targets,
        updates=sum(cost.updates for cost in costs),
        tokens=sum(cost.sampled_tokens + cost.learned_tokens for cost in costs),
        seconds=sum(cost.sampling_s + cost.learning_s for cost in costs),
        verdict="promote" if stage.move.gate is not None and stage.move.kind == "promote" else None,
        note=stage.move.reason,
    )


def _row(stage: int, subject: str, item: str, measure: str, score: float) -> Observation:
    return Observation(arm=HOME_ARM, seed=0, stage=stage, subject=subject, item=item, measure=measure, score=score)
