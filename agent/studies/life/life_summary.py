"""What the cells of a life study come to: one document for each seed, and one over the seeds. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from perdure.agent.studies.cells import Finished
from perdure.agent.studies.life.best_ever import TaskScores, best_ever, mean_difference, paired_difference
from perdure.agent.studies.life.life_arms import JOINT, LIFE, NAIVE
from perdure.agent.studies.life.life_study import FIRST, LifeSize, cell_name, probe_name
from perdure.memory.json_value import Document

Scores = Mapping[str, Mapping[str, TaskScores]]
"""By version and environment."""


def life_summary(finished: Finished, size: LifeSize) -> Document:
    """All lives that are finished, with what is missing in each left out."""
    hours, tasks = size.hours, size.tasks
    lives = [one_life_summary(finished, hours, seed, tasks) for seed in range(size.seeds) if cell_name(seed, hours, LIFE) in finished]
    return {
        "study": "life",
        "hours": hours,
        "tasks": tasks,
        "environments": lives[0]["environments"] if lives else [],
        "lives": lives,
        "over_seeds": _over_seeds(lives),
        "made_by": sorted({result.made_by for result in finished.values()}),
    }


def one_life_summary(finished: Finished, hours: float, seed: int, tasks: int) -> Document:
    """One seed."""
    (history,) = finished[cell_name(seed, hours, LIFE)].rows
    environments = history["environments"]
    served = served_versions(history)
    ours = probed(finished, hours, seed, tasks, LIFE)
    naive_rows = _rows(finished, cell_name(seed, hours, NAIVE))
    naive = {FIRST: ours[FIRST]} if FIRST in ours else {}
    naive |= probed(finished, hours, seed, tasks, NAIVE)
    naive_served = [FIRST, *(row["version"] for row in naive_rows)]
    joint = probed(finished, hours, seed, tasks, JOINT)
    (joint_job, *_) = [*_rows(finished, cell_name(seed, hours, JOINT)), None]
    joint_version = None if joint_job is None else joint_job["version"]
    present, naive_present = served[-1], naive_served[-1]
    document: Document = {
        "seed": seed,
        "environments": environments,
        "minutes": history["minutes"],
        "live_episodes": history["live_episodes"],
        "serves": present,
        "served": history["served"],
        "verdicts": dict(Counter(job["verdict"] for job in history["jobs"] if job["verdict"] is not None)),
        "dropped": dropped_verdicts(history),
        "updates": sum(job["updates"] for job in history["jobs"] if job["kind"] == "learn"),
        "jobs": history["jobs"],
        "seconds": seconds_by_activity(history),
        "means": {version: means(scores) for version, scores in ours.items()},
        "naive_means": {version: means(naive[version]) for version in naive_served if version in naive},
        "joint_job": joint_job,
        "naive_updates": [row["updates"] for row in naive_rows],
    }
    if present in ours:
        document["fell"] = _falls(ours, served, environments)
        if joint_version in joint:
            document["joint"] = means(joint[joint_version])
            document["life_minus_joint"] = mean_difference(ours[present], joint[joint_version]).as_json()
        if naive_rows and naive_present in naive:
            document["naive_fell"] = _falls(naive, naive_served, environments)
            document["life_minus_naive"] = mean_difference(ours[present], naive[naive_present]).as_json()
            document["life_minus_naive_by_environment"] = {
                name: paired_difference(ours[present][name], naive[naive_present][name]).as_json() for name in environments
            }
    return document


def served_versions(history: Document) -> list[str]:
    """In the order in which they began to serve; the last serves now."""
    return [move["version"] for move in history["served"]]


def probed(finished: Finished, hours: float, seed: int, tasks: int, arm: str) -> dict[str, dict[str, TaskScores]]:
    """The scores of an arm's versions whose probes are finished."""
    scores = {}
    for result in finished.values():
        version = result.parameters.get("version")
        if version is not None and result.name == probe_name(seed, hours, tasks, arm, version):
            scores[version] = {row["environment"]: row["scores"] for row in result.rows}
    return scores


def means(scores: Mapping[str, TaskScores]) -> dict[str, float]:
    """The mean score by environment, over the tasks that got one."""
    known = {name: [score for score in found if score is not None] for name, found in scores.items()}
    return {name: fmean(found) if found else 0.0 for name, found in known.items()}


def dropped_verdicts(history: Document) -> list[Document]:
    """Verdicts that cost a gain and led to nothing: not a promotion, not a plain refusal, not followed, and not the last ones of the life.

    A plain refusal is one for want of a gain, or with nothing left to gain.
    """
    followed = {job.get("follows") for job in history["jobs"]}
    last = max((job["id"] for job in history["jobs"] if job["verdict"] is not None), default=0)
    dropped = []
    for job in history["jobs"]:
        if job["verdict"] in (None, "promote") or job["id"] in followed or job["id"] == last:
            continue
        if not job["reason"].startswith("no gain") and "nothing left to gain" not in job["reason"]:
            dropped.append({"job": job["id"], "candidate": job["candidate"], "verdict": job["verdict"], "reason": job["reason"]})
    return dropped


def seconds_by_activity(history: Document) -> Document:
    """Where the time of a life went, and how long its gates took. Live play has what jobs do not take; on a CPU they take turns."""
    jobs = [job for job in history["jobs"] if job.get("ended") is not None]
    gates = [job["gate_s"] for job in jobs if job.get("gate_s") is not None]
    to_verdict = [60 * (job["ended"] - job["queued"]) for job in jobs if job["verdict"] is not None]
    learning = sum(job.get("learn_s", 0.0) for job in jobs)
    sampling, updating = sum(job.get("sampling_s", 0.0) for job in jobs), sum(job.get("updating_s", 0.0) for job in jobs)
    gating = sum(gates)
    return {
        "sampling to learn": sampling,
        "updates": updating,
        "checks and loading": learning - sampling - updating,
        "gates": gating,
        "live play and the rest": max(0.0, 60 * history["minutes"] - learning - gating),
        "gate_median": median(gates) if gates else None,
        "gate_worst": max(gates, default=None),
        "job_to_verdict_median": median(to_verdict) if to_verdict else None,
    }


def _falls(scores: Scores, served: Sequence[str], environments: Sequence[str]) -> Document:
    """The best that an arm ever had in each environment against what it has."""
    found = {}
    for name in environments:
        best = best_ever({version: by_name[name] for version, by_name in scores.items() if name in by_name}, served)
        found[name] = {"best": best.best, "lost": best.lost.as_json(), "fell": best.fell}
    return found


def _rows(finished: Finished, name: str) -> Sequence[Document]:
    return finished[name].rows if name in finished else ()


def _over_seeds(lives: Sequence[Document]) -> Document:
    """Means over the seeds, of those that have the number."""

    def mean_of(values: Sequence[float]) -> float | None:
        return fmean(values) if values else None

    gates = [job["gate_s"] for life in lives for job in life["jobs"] if job.get("gate_s") is not None]
    to_verdict = [life["seconds"]["job_to_verdict_median"] for life in lives if life["seconds"]["job_to_verdict_median"] is not None]
    return {
        "start": mean_of([fmean(life["means"][FIRST].values()) for life in lives if FIRST in life["means"]]),
        "life": mean_of([fmean(life["means"][life["serves"]].values()) for life in lives if life["serves"] in life["means"]]),
        "joint": mean_of([fmean(life["joint"].values()) for life in lives if "joint" in life]),
        "naive": mean_of([fmean(list(life["naive_means"].values())[-1].values()) for life in lives if "naive_fell" in life]),
        "fell": sum(one["fell"] for life in lives for one in life.get("fell", {}).values()),
        "naive_fell": sum(one["fell"] for life in lives for one in life.get("naive_fell", {}).values()),
        "promotions": mean_of([life["verdicts"].get("promote", 0) for life in lives]),
        "verdicts": mean_of([sum(life["verdicts"].values()) for life in lives]),
        "dropped": sum(len(life["dropped"]) for life in lives),
        "gate_s_median": median(gates) if gates else None,
        "gate_s_worst": max(gates, default=None),
        "job_to_verdict_s_median": median(to_verdict) if to_verdict else None,
    }
