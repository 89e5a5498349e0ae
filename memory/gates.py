"""Gates: what a candidate showed, pair by pair, and the verdict.

The settings are written before the first pair, and every pair before it counts, so that a verdict can be computed again.
A gate belongs to one attempt at its job. Left out: the decision (`learners/gate/decision.py`), and how an interrupted gate resumes
(`learners/gate/gating.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from perdure.memory import faults, leases
from perdure.memory.contracts.json_form import read_gate, result_document
from perdure.memory.contracts.results import GateResult, GateTerms
from perdure.memory.errors import InputError, RuntimeFailure, UnknownError
from perdure.memory.json_value import Document, iso_utc, to_json
from perdure.memory.records import Decision, Lease, Pair, Role
from perdure.memory.store import Store, reading_row


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRow:
    """One gate, open as long as it has no result."""

    id: int
    job: int
    attempt: int
    candidate: str
    serving: str
    """The version that served when it started."""
    profile: str
    terms: GateTerms
    result: GateResult | None
    started: float
    finished: float | None

    @property
    def reason(self) -> str | None:
        return self.result.reason if self.result else None

    @property
    def verdict(self) -> Decision | None:
        return self.result.verdict if self.result else None

    def as_json(self) -> Document:
        """The listing's keys."""
        return {
            "gate": self.id,
            "candidate": self.candidate,
            "serving": self.serving,
            "profile": self.profile,
            "verdict": self.verdict,
            "reason": self.reason,
            "evidence": result_document(self.result) if self.result else None,
            "finished": None if self.finished is None else iso_utc(self.finished),
        }


def start_gate(store: Store, lease: Lease, candidate: str, serving: str, profile: str, terms: GateTerms) -> int:
    """Open a gate and return its id; the same id if the same attempt at the job opens it again."""
    with store.write() as conn:
        leases.check(store, "job", lease)
        conn.execute(
            """
            INSERT INTO gate (job, attempt, candidate, serving, profile, settings, started_at) VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (job, attempt, candidate) DO NOTHING
            """,
            (lease.subject, lease.attempt, candidate, serving, profile, to_json(asdict(terms)), time.time()),
        )
        sql = "SELECT * FROM gate WHERE job = ? AND attempt = ? AND candidate = ?"
        gate = _gate(store.rows(sql, (lease.subject, lease.attempt, candidate))[0])
        if (gate.serving, gate.profile, gate.terms) != (serving, profile, terms):
            raise RuntimeFailure(f"gate {gate.id} of {candidate} was started with other settings: they are fixed before its first pair")
        return gate.id


def add_pairs(store: Store, lease: Lease, gate: int, pairs: Sequence[Pair]) -> None:
    """Write pairs of an open gate. Writing the same pair again changes nothing; another pair under its number is refused."""
    with store.write() as conn:
        _check_open(_check_ours(store, lease, gate))
        for pair in pairs:
            kept = store.rows(
                "SELECT * FROM pair WHERE gate = ? AND environment = ? AND role = ? AND draw = ?",
                (gate, pair.environment, pair.role, pair.draw),
            )
            if kept:
                if _pair(kept[0]) != pair:
                    raise RuntimeFailure(f"gate {gate}: draw {pair.draw} of {pair.environment} is already stored with different scores")
                continue
            if seed_used(store, pair.environment, pair.role, pair.reference, pair.seed):
                raise RuntimeFailure(f"gate {gate}: seed {pair.seed} of {pair.environment} was used before against {pair.reference}")
            conn.execute(
                """
                INSERT INTO pair (gate, environment, role, draw, seed, reference, reference_score, candidate_score, difference)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
                """,
                (
                    gate,
                    pair.environment,
                    pair.role,
                    pair.draw,
                    pair.seed,
                    pair.reference,
                    pair.reference_score,
                    pair.candidate_score,
                    pair.difference,
                ),
            )
        faults.point("mid-pairs")


def seed_used(store: Store, environment: str, role: Role, reference: str, seed: int) -> bool:
    """Whether any gate compared with `reference` on this seed before: then the next seed is drawn."""
    sql = "SELECT 1 FROM pair WHERE environment = ? AND role = ? AND reference = ? AND seed = ?"
    return bool(store.rows(sql, (environment, role, reference, seed)))


def close_gate(store: Store, lease: Lease, result: GateResult) -> None:
    """Write the result. Writing the same verdict again changes nothing; a verdict is never changed."""
    with store.write() as conn:
        gate = _check_ours(store, lease, result.gate)
        if gate.verdict == result.verdict:
            return
        _check_open(gate)
        conn.execute(
            "UPDATE gate SET verdict = ?, reason = ?, evidence = ?, finished_at = ? WHERE id = ?",
            (result.verdict, result.reason, to_json(result_document(result)), time.time(), result.gate),
        )


def get_gate(store: Store, gate: int) -> GateRow:
    """Raises `UnknownError`."""
    rows = store.rows("SELECT * FROM gate WHERE id = ?", (gate,))
    if not rows:
        raise UnknownError(f"no gate {gate}")
    return _gate(rows[0])


def gates_of(store: Store, candidate: str) -> list[GateRow]:
    """All gates of a version, oldest first."""
    return [_gate(row) for row in store.rows("SELECT * FROM gate WHERE candidate = ? ORDER BY id", (candidate,))]


def pairs_of(store: Store, gate: int) -> list[Pair]:
    """All pairs of a gate, by environment and draw."""
    return [_pair(row) for row in store.rows("SELECT * FROM pair WHERE gate = ? ORDER BY environment, role, draw", (gate,))]


def pairs_that_count(store: Store, gate: int) -> list[Pair]:
    """The same, without those from before an environment was found to have changed."""
    rows = store.rows(
        """
        SELECT p.* FROM pair p JOIN environment e ON e.name = p.environment
        WHERE p.gate = ? AND p.gate >= e.first_gate ORDER BY p.environment, p.role, p.draw
        """,
        (gate,),
    )
    return [_pair(row) for row in rows]


def differences_of(store: Store, version: str, references: Mapping[str, str]) -> dict[str, list[float]]:
    """How a version differed from a reference, by environment, over its gates, in the order in which the pairs were played.

    Pairs from before an environment was found to have changed do not count.
    """
    rows = store.rows(
        """
        SELECT p.environment, p.difference FROM pair p JOIN gate g ON g.id = p.gate JOIN json_each(?) r ON r.key = p.environment
        JOIN environment e ON e.name = p.environment
        WHERE g.candidate = ? AND p.reference = r.value AND p.difference IS NOT NULL AND g.id >= e.first_gate
        ORDER BY p.gate, p.role, p.draw
        """,
        (to_json(dict(references)), version),
    )
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["environment"], []).append(row["difference"])
    return found


def open_gate_of(store: Store, job: int) -> GateRow | None:
    """The open gate of a job; None if there is none."""
    rows = store.rows("SELECT * FROM gate WHERE job = ? AND verdict IS NULL ORDER BY id DESC LIMIT 1", (job,))
    return _gate(rows[0]) if rows else None


def candidate_gates(store: Store) -> list[GateRow]:
    """All gates that could lead to a promotion, oldest first: not those that confirm a loss before a rollback."""
    sql = """
        SELECT g.* FROM gate g JOIN job j ON j.id = g.job
        WHERE json_extract(j.options, '$.leads_to') IS NOT 'rollback' ORDER BY g.id
    """
    return [_gate(row) for row in store.rows(sql)]


def last_verdict(store: Store) -> GateRow | None:
    """The newest of these that is closed; None if there is none."""
    sql = """
        SELECT g.* FROM gate g JOIN job j ON j.id = g.job
        WHERE g.verdict IS NOT NULL AND json_extract(j.options, '$.leads_to') IS NOT 'rollback' ORDER BY g.id DESC LIMIT 1
    """
    rows = store.rows(sql)
    return _gate(rows[0]) if rows else None


def _check_ours(store: Store, lease: Lease, gate: int) -> GateRow:
    leases.check(store, "job", lease)
    found = get_gate(store, gate)
    if (found.job, found.attempt) != (lease.subject, lease.attempt):
        raise InputError(
            f"gate {gate} belongs to job {found.job}, attempt {found.attempt}, not to job {lease.subject}, attempt {lease.attempt}"
        )
    return found


def _check_open(gate: GateRow) -> None:
    if gate.verdict is not None:
        raise RuntimeFailure(f"gate {gate.id} is closed with the verdict {gate.verdict}")


def _gate(row: Any) -> GateRow:
    with reading_row(f"gate {row['id']}"):
        return GateRow(
            id=row["id"],
            job=row["job"],
            attempt=row["attempt"],
            candidate=row["candidate"],
            serving=row["serving"],
            profile=row["profile"],
            terms=GateTerms(**json.loads(row["settings"])),
            result=None if row["evidence"] is None else read_gate(json.loads(row["evidence"])),
            started=row["started_at"],
            finished=row["finished_at"],
        )


def _pair(row: Any) -> Pair:
    return Pair(
        environment=row["environment"],
        role=row["role"],
        draw=row["draw"],
        seed=row["seed"],
        reference=row["reference"],
        reference_score=row["reference_score"],
        candidate_score=row["candidate_score"],
        difference=row["difference"],
    )
