"""Tasks that a person puts on the stream. They are played before the stream's own."""

from __future__ import annotations

import random

from perdure.agent.changes.known_environments import in_this_home
from perdure.agent.config_file import LoadedConfig
from perdure.envs.seeds import SPLITS
from perdure.memory import tasks
from perdure.memory.changes import Who, answer_of, check_words, perform
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document
from perdure.memory.store import Store

MOST_TASKS = 100_000
"""Tasks of one request."""


def add_tasks(
    store: Store,
    loaded: LoadedConfig,
    by: Who,
    environment: str,
    *,
    seed: int | None = None,
    count: int = 1,
    reason: str | None = None,
    key: str | None = None,
) -> list[Document]:
    """Queue tasks of an environment of this home; gives them as `perdure task add --json`.

    `seed` is that of the first, and the others count up from it; None draws them at random. Raises `UnknownError`, `InputError`.
    """
    arguments: Document = {"environment": environment, "seed": seed, "count": count}
    check_words(by, reason, key)
    check_seeds(seed, count)
    earlier: list[Document] | None = answer_of(store, key, what="task add", arguments=arguments, reason=reason)
    if earlier is not None:
        return earlier
    (name,) = in_this_home(store, loaded, [environment])
    train = SPLITS["train"]
    seeds = [random.randrange(len(train)) for _ in range(count)] if seed is None else range(seed, seed + count)

    def change() -> tuple[str, list[Document]]:
        tasks.add_tasks(store, name, seeds, loaded.config.play.members, "person")
        return name, [summary.as_json() for summary in reversed(tasks.list_tasks(store, limit=count))]  # the newest ones are ours

    return perform(store, change, by=by, what="task add", arguments=arguments, reason=reason, key=key)


def check_seeds(seed: int | None, count: int) -> None:
    """Raise `InputError` unless this number of tasks may have seeds from `seed` on."""
    if not 1 <= count <= MOST_TASKS:
        raise InputError(f"{count} tasks at once: 1 to {MOST_TASKS} can be added")
    train = SPLITS["train"]
    if seed is not None and not (seed in train and seed + count - 1 in train):
        span = str(seed) if count == 1 else f"{seed} to {seed + count - 1}"
        raise InputError(
            f"seeds of tasks are {train[0]} to {train[-1]}, not {span}: "
            "higher seeds are reserved for the gate and probes, which are never learned from"
        )
