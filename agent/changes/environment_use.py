"""Taking an environment of the home out of use, and bringing it back."""

from __future__ import annotations

from perdure.memory import environments
from perdure.memory.changes import Who, perform
from perdure.memory.jobs import unfinished_jobs
from perdure.memory.json_value import Document
from perdure.memory.store import Store


def retire(store: Store, by: Who, environment: str, *, reason: str | None = None, key: str | None = None) -> Document:
    """Take an environment out of play, replay and gate; gives `{"name", "retired", "tasks_failed", "jobs"}`, as `perdure env retire`.

    `jobs` are those that still have it as a target. Raises `UnknownError`, and `Conflict` if it is retired already.
    """

    def change() -> tuple[str, Document]:
        failed = environments.retire(store, environment)
        jobs = [job.id for job in unfinished_jobs(store) if environment in job.targets]
        return environment, {"name": environment, "retired": True, "tasks_failed": failed, "jobs": jobs}

    return perform(store, change, by=by, what="env retire", arguments={"environment": environment}, reason=reason, key=key)


def restore(store: Store, by: Who, environment: str, *, reason: str | None = None, key: str | None = None) -> Document:
    """Bring a retired environment back; gives `{"name", "retired", "anchor"}`, as `perdure env restore`.

    Raises `UnknownError`, and `Conflict` if it is not retired.
    """

    def change() -> tuple[str, Document]:
        environments.restore(store, environment)
        return environment, {"name": environment, "retired": False, "anchor": environments.anchor_of(store, environment)}

    return perform(store, change, by=by, what="env restore", arguments={"environment": environment}, reason=reason, key=key)
