"""The rule of `perdure store check` for errands: scored once, by a process that held them, with the scores of their own episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from perdure.memory.errands.errand_records import again, group_of
from perdure.memory.errors import RuntimeFailure
from perdure.memory.leases import Clock
from perdure.memory.store import Store, reading_row


def errands(store: Store, clock: Clock) -> Iterator[tuple[Literal["error", "warning"], str, str]]:
    """Errands against what they were to be, and against the episodes that were played for them, as far as those are in the store."""
    episodes: dict[int, Mapping[tuple[str, int], Any]] = {}
    for row in store.rows("SELECT * FROM errand ORDER BY id"):
        name = f"errand {row['id']}"
        if row["state"] in ("leased", "done") and (row["owner"] is None or row["attempt"] < 1):
            yield "error", name, f"is {row['state']}, and nobody holds or held it"
        if row["state"] != "done":
            continue
        try:
            with reading_row(name):
                scores = [None if score is None else float(score) for score in json.loads(row["scores"])]
        except RuntimeFailure as error:
            yield "error", name, str(error)
            continue
        if len(scores) != row["samples"] or not all(score is None or 0 <= score <= 1 for score in scores):
            yield "error", name, f"should have {row['samples']} scores in [0, 1]; it has {row['scores']}"
            continue
        if row["job"] not in episodes:
            episodes[row["job"]] = _episodes_of(store, row["job"])
        group = group_of(*(row[key] for key in ("job", "job_attempt", "purpose", "batch", "version", "n", "attempt")))
        for number, score in enumerate(scores):
            played = episodes[row["job"]].get((again(group), number)) or episodes[row["job"]].get((group, number))
            if played is None:  # it was pruned
                continue
            shown = played["score"] if played["state"] == "completed" else None
            if shown != score:
                yield "error", name, f"answer {number} was scored {score}, and its episode {played['id']} has {shown}"


def _episodes_of(store: Store, job: int) -> dict[tuple[str, int], Any]:
    """The episodes of a job on held-out seeds, by group and member."""
    sql = """
        SELECT id, "group", member, state, score FROM episode
        WHERE job = ? AND purpose IN ('gate', 'probe') AND seat = 0 ORDER BY id
    """
    return {(row["group"], row["member"]): row for row in store.rows(sql, (job,))}
