"""The failure of a job that has nothing to learn from."""

from __future__ import annotations

from perdure.learners.learning_job import LearningJob
from perdure.memory.contracts.orders import NOTHING_TO_LEARN
from perdure.memory.errors import RuntimeFailure

UPDATES_WITHOUT_SIGNAL = 4
"""A job on fresh episodes fails if its first 4 updates had nothing to learn from."""


def nothing_to_learn(job: LearningJob, reason: str) -> RuntimeFailure:
    """The error that says why, and what to do."""
    return RuntimeFailure(f"{NOTHING_TO_LEARN} in {job.environments.names}: {reason}")


def require_signal(job: LearningJob, reason: str) -> None:
    """Raise `RuntimeFailure` if no update had anything to learn from, and there were enough of them to say so."""
    if job.progress.learned or job.progress.step < min(UPDATES_WITHOUT_SIGNAL, job.progress.updates):
        return
    played = [made.groups for made in job.tally.updates]
    spoilt = sum(groups.spoilt_episodes for groups in played)
    if spoilt and not any(groups.groups for groups in played):
        reason = f"none of {spoilt} episodes completed; `perdure episode list` shows why, and `perdure env check` tries the environment"
    raise nothing_to_learn(job, reason)
