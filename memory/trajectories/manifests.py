"""Batch manifests: the exact episodes of each update, written before the update.

No episode is in two on-policy batches, because an update is on-policy only for the step that sampled it; the first update of a job also
for the version that it starts from. If a later attempt at the job makes that update anew, the mark of live episodes moves to its batch.
Other batches may share episodes. Episodes of gates and probes are in none, and neither are those of seats that played against the policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.memory import leases
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.json_value import to_json
from perdure.memory.records import Lease
from perdure.memory.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The batch of one update."""

    job: int
    attempt: int
    n: int
    """The number of the update."""
    episodes: tuple[int, ...]
    on_policy: bool


def write_manifest(store: Store, lease: Lease, n: int, episode_ids: Sequence[int], on_policy: bool, *, reused: Sequence[int] = ()) -> None:
    """Write which completed episodes the n-th update of a job learns from. Writing the same again changes nothing.

    `on_policy` means that the current weights sampled `episode_ids`; `reused` are other episodes, of any age. Raises `RuntimeFailure` if an
    on-policy batch would use an episode of another one.
    """
    rows = sorted({(episode, int(on_policy)) for episode in episode_ids} | {(episode, 0) for episode in reused})
    ids = [episode for episode, _ in rows]
    with store.write() as conn:
        leases.check(store, "job", lease)
        _check_episodes(store, ids)
        written = store.rows(
            "SELECT episode, on_policy FROM manifest WHERE job = ? AND attempt = ? AND n = ? ORDER BY episode",
            (lease.subject, lease.attempt, n),
        )
        if written:
            if [tuple(row) for row in written] != rows:
                raise RuntimeFailure(f"the manifest of job {lease.subject}, step {n}, has other episodes already: it is not changed")
            return
        if on_policy:
            conn.execute(
                """
                UPDATE manifest SET on_policy = 0 WHERE job = ? AND n = ? AND attempt < ? AND on_policy = 1
                AND episode IN (SELECT id FROM episode WHERE purpose = 'live' AND id IN (SELECT value FROM json_each(?)))
                """,
                (lease.subject, n, lease.attempt, to_json(list(episode_ids))),
            )
            _check_unused(store, episode_ids)
        conn.executemany(
            "INSERT INTO manifest (job, attempt, n, episode, on_policy) VALUES (?, ?, ?, ?, ?)",
            [(lease.subject, lease.attempt, n, *row) for row in rows],
        )


def manifests(store: Store, job: int) -> list[Manifest]:
    """The batches of a job, in order."""
    rows = store.rows(
        """
        SELECT attempt, n, group_concat(episode) AS episodes, max(on_policy) AS on_policy
        FROM manifest WHERE job = ? GROUP BY attempt, n ORDER BY attempt, n
        """,
        (job,),
    )
    return [
        Manifest(
            job=job,
            attempt=row["attempt"],
            n=row["n"],
            episodes=tuple(sorted(int(number) for number in row["episodes"].split(","))),
            on_policy=bool(row["on_policy"]),
        )
        for row in rows
    ]


def learned_elsewhere(store: Store, job: int, episode_ids: Sequence[int]) -> bool:
    """Whether an on-policy batch of another job has one of these episodes."""
    sql = "SELECT 1 FROM manifest WHERE on_policy = 1 AND job <> ? AND episode IN (SELECT value FROM json_each(?)) LIMIT 1"
    return bool(store.rows(sql, (job, to_json(list(episode_ids)))))


def _check_episodes(store: Store, ids: Sequence[int]) -> None:
    if not ids:
        raise InputError("a batch needs at least one episode")
    rows = store.rows("SELECT id, state, purpose, seat FROM episode WHERE id IN (SELECT value FROM json_each(?))", (to_json(list(ids)),))
    missing = set(ids) - {row["id"] for row in rows}
    if missing:
        raise InputError(f"no episode {min(missing)}")
    for row in rows:
        if row["state"] != "completed":
            raise InputError(f"episode {row['id']} is {row['state']}: only completed ones are learned from")
        if row["purpose"] in ("gate", "probe"):
            raise InputError(f"episode {row['id']} was played as a {row['purpose']} episode, on held-out seeds: it is never learned from")
        if row["seat"]:
            raise InputError(f"episode {row['id']} is from seat {row['seat']}, which played against the policy: it is never learned from")


def _check_unused(store: Store, ids: Sequence[int]) -> None:
    used = store.rows(
        "SELECT episode, job, n FROM manifest WHERE on_policy = 1 AND episode IN (SELECT value FROM json_each(?)) LIMIT 1",
        (to_json(list(ids)),),
    )
    if used:
        episode, job, n = used[0]
        raise RuntimeFailure(f"episode {episode} is in the on-policy batch of job {job}, step {n}: it cannot be in another one")
