"""An e-detector: notices that scores have fallen below what was expected, or risen above it, with few false alarms. Pure.

`Detector` is the e-detector of Shiryaev-Roberts type for bounded means (Shin, Ramdas and Rinaldo, 'E-detectors: a nonparametric framework
for sequential change detection', 2023, definition 2.2 and section 5): after a score x in [0, 1]

    M_t = L_t (M_{t-1} + 1),    L_t = 1 + stake_t (expected - x),    alarm at M_t >= A.

**Its average run length is at least A.** As long as each score is at least `expected` on average, given those before, and the stake was set
before x was seen, L_t is at most 1 on average, so that M_t - t is a supermartingale. By optional stopping the alarm comes on average after
E[T] >= E[M_T] >= A scores (proposition 2.4 there).

Nothing else is assumed of the scores: the members of a task may depend on each other in any way, since only their mean is used, and scores
may be graded. The stake is the Kelly bet for a fall of `DESIGN_FALL`, by the variance of the scores so far. A rise is a fall of 1 - x.
Left out: what is expected, and where scores come from (`live_watch.py`); what an alarm leads to (`finding.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

RUN_LENGTH = 1000
"""The average run length is at least this many scores: A. As a score is one task, and each task belongs to one environment, one kind of
false alarm comes at most once in 1,000 tasks of a home, however many environments it has."""

DESIGN_FALL = 0.15
PRIOR_WEIGHT, PRIOR_VARIANCE = 10, 0.0625
"""The first guess of the variance weighs as much as ten scores. .0625 lies between eight independent members (.03) and equal ones (.25)."""
STAKE_CAP = 0.8
"""One score can take at most this share of the evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """Evidence that the mean score has fallen below `expected`."""

    expected: float
    """In [0, 1]; the alarm is false if the mean is at least this. Below 0 nothing can fall: then there is no alarm."""
    scores: int = 0
    total: float = 0.0
    squares: float = 0.0
    evidence: float = 0.0
    """M_t; 0 at the start."""

    @property
    def alarmed(self) -> bool:
        return self.evidence >= RUN_LENGTH

    @property
    def mean(self) -> float | None:
        """Of all scores since the start; None without any."""
        return self.total / self.scores if self.scores else None

    def stake(self) -> float:
        """Of the next score; the factor stays positive."""
        centre = self.total / self.scores if self.scores else 0.0
        spread = max(self.squares - self.scores * centre * centre, 0.0)
        variance = (PRIOR_WEIGHT * PRIOR_VARIANCE + spread) / (PRIOR_WEIGHT + self.scores)
        kelly = DESIGN_FALL / (DESIGN_FALL * DESIGN_FALL + variance)
        return kelly if self.expected >= 1 else min(kelly, STAKE_CAP / (1 - self.expected))

    def after(self, score: float) -> Detector:
        """The detector after one more score in [0, 1]."""
        if not 0 <= score <= 1:
            raise ValueError(f"score {score} is not in [0, 1]")
        return replace(
            self,
            scores=self.scores + 1,
            total=self.total + score,
            squares=self.squares + score * score,
            evidence=(1 + self.stake() * (self.expected - score)) * (self.evidence + 1) if self.expected > 0 else 0.0,
        )
