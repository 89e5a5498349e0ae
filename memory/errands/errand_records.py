"""What an errand is: one held-out draw of a gate or a probe, with all that a player needs to answer it.

It crosses machines as plain JSON (`errand_document`, `read_errand`). Left out: the queue (`errand_queue.py`), and who holds which
(`errand_leases.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from perdure.memory.errors import InputError
from perdure.memory.json_value import Document
from perdure.memory.records import Lease

AnswerScores = tuple[float | None, ...]
"""Of the answers to one draw, in their order, each in [0, 1]; None if one could not be scored."""

ERRAND_TTL_S = 10.0
"""How long a player that is silent keeps its errands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrandTerms:
    """How all errands of one batch are played."""

    version: str
    serving: str
    """The version that the opponent 'serving' stands for: the same for both sides of a gate, whatever serves meanwhile."""
    purpose: Literal["gate", "probe"]
    temperature: float
    """0 is greedy."""
    samples: int
    """Answers to each draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """One draw, leased to a player."""

    batch: int
    """Of this attempt at the job, from 1."""
    n: int
    """Place in the batch, from 0."""
    environment: str
    seed: int
    terms: ErrandTerms
    lease: Lease
    """Of the player on the errand. It is the key of what comes back: the scores of one lease are written once."""
    job: Lease
    """Of the job: its episodes are played under it."""

    @property
    def id(self) -> int:
        return self.lease.subject

    @property
    def group(self) -> str:
        """The group of its episodes. Another attempt has another one, so that no member of a group is played twice to the end."""
        return group_of(self.job.subject, self.job.attempt, self.terms.purpose, self.batch, self.terms.version, self.n, self.lease.attempt)


def group_of(job: int, job_attempt: int, purpose: str, batch: int, version: str, n: int, attempt: int) -> str:
    """The group of the episodes of one attempt at an errand."""
    return f"job-{job}.{job_attempt}-{purpose}-{batch}-{version}-{n}.{attempt}"


def again(group: str) -> str:
    """The group of the episodes of an errand that failed and are played once more."""
    return f"{group}-again"


def errand_document(errand: Errand) -> Document:
    """An errand as JSON."""
    return asdict(errand)


def read_errand(document: Mapping[str, Any]) -> Errand:
    """The errand that `errand_document` wrote. Raises `InputError` if it is none."""
    try:
        terms, lease, job = (document[key] for key in ("terms", "lease", "job"))
        return Errand(
            **{**document, "terms": ErrandTerms(**terms), "lease": Lease(**lease), "job": Lease(**job)},
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"this is no errand ({error}): head and player must run the same version of Perdure") from None


def check_scores(errand: int, samples: int, scores: AnswerScores) -> None:
    """Raise `InputError` unless there is a score in [0, 1] or None for each answer."""
    if len(scores) != samples:
        raise InputError(f"errand {errand} wants {samples} answers, and {len(scores)} were scored: nothing was written")
    for score in scores:
        if score is not None and not 0 <= score <= 1:
            raise InputError(f"errand {errand}: a score must be in [0, 1], not {score}; nothing was written")
