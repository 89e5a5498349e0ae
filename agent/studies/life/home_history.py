"""What happened in a home, read from its store: which version served when, its jobs with their verdicts, and the scores of its probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perdure.agent.studies.life.perdure_process import Sitting, minutes_run
from perdure.envs.seeds import probe_seed
from perdure.memory.contracts.orders import GateOrder, Job, LearnOrder
from perdure.memory.contracts.results import LearnResult
from perdure.memory.environments import list_environments
from perdure.memory.errors import PerdureError
from perdure.memory.jobs import JobTimes, job_times, list_jobs, steps
from perdure.memory.json_value import Document
from perdure.memory.store import Store, open_store
from perdure.memory.versions import list_versions, moves, serving

MOST_JOBS = 100_000


def read_history(home: Path, sittings: Sequence[Sitting]) -> Document:
    """A life as one document. Times are minutes that the daemon had run."""
    with open_store(home) as store:
        times = job_times(store)
        jobs = [_job(store, job, times[job.id], sittings) for job in reversed(list_jobs(store, MOST_JOBS)) if job.kind != "probe"]
        versions = list(reversed(list_versions(store)))
        return {
            "environments": [row.name for row in list_environments(store)],
            "served": [
                {"version": move.to_version, "minute": minutes_run(sittings, move.moved), "kind": move.kind} for move in moves(store)
            ],
            "versions": [
                {
                    "name": version.name,
                    "parent": version.parent,
                    "state": version.state,
                    "targets": list(version.targets),
                    "on_disk": version.path is None or (store.home / version.path).is_dir(),
                }
                for version in versions
            ],
            "jobs": jobs,
            "live_episodes": store.rows("SELECT count(*) FROM episode WHERE purpose = 'live' AND state = 'completed'")[0][0],
            "minutes": sum(sitting.ended - sitting.began for sitting in sittings) / 60,
        }


def how_far(home: Path) -> str:
    """One line on a home while its daemon runs. It never fails: what is only told must not end a life."""
    try:
        with open_store(home) as store:
            verdicts = [job.verdict for job in list_jobs(store, MOST_JOBS) if job.verdict is not None]
            return f"{serving(store).name} serves after {len(verdicts)} verdicts, of which {verdicts.count('promote')} promoted"
    except PerdureError as error:
        return str(error)


def task_scores(home: Path, version: str, root_seed: int, environment: str, tasks: int) -> list[float | None]:
    """The scores of a version's probe, task by task; None for a task that failed."""
    sql = "SELECT seed, score FROM episode WHERE version = ? AND environment = ? AND purpose = 'probe' AND state = 'completed' ORDER BY id"
    with open_store(home) as store:
        found = {row["seed"]: row["score"] for row in store.rows(sql, (version, environment))}
    return [found.get(probe_seed(root_seed, environment, r)) for r in range(tasks)]


def _job(store: Store, job: Job, times: JobTimes, sittings: Sequence[Sitting]) -> Document:
    order, gate = job.order, job.gate
    updates = len(steps(store, job.id))
    document: Document = {
        "id": job.id,
        "kind": job.kind,
        "state": job.state,
        "targets": list(job.targets),
        "candidate": job.candidate,
        "verdict": job.verdict,
        "reason": gate.reason if gate is not None else job.error,
        "updates": updates,
        "queued": minutes_run(sittings, job.created),
        "ended": None if times.finished is None else minutes_run(sittings, times.finished),
        "new_anchors": list(gate.new_anchors) if gate is not None else [],
        "gate_episodes": gate.candidate_episodes + gate.anchor_episodes if gate is not None else 0,
    }
    if isinstance(order, LearnOrder | GateOrder):
        document |= {"why": order.why, "follows": order.follows}
    if isinstance(order, LearnOrder):
        document |= {"learner": order.learner, "options": dict(order.options), "start": order.start, "aim": order.aim}
    if isinstance(job.result, LearnResult):
        cost = job.result.cost
        document |= {
            "sampling_s": cost.sampling_s,
            "updating_s": cost.learning_s,
            "learn_s": job.result.learn_s,
            "gate_s": job.result.gate_s if gate is not None else None,
        }
    elif gate is not None and times.started is not None and times.finished is not None:
        document["gate_s"] = times.finished - times.started
    return document
