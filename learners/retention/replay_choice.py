"""Which old environments a batch replays: within a budget of episodes and one of tokens, first those that fall.

An environment falls if it succeeds less often in this job than in live play before. Pure functions of records, which the store gives again
to a resumed job. Left out: how large the budgets are (`batch_sampling.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perdure.memory.trajectories.play_records import NOTHING_PLAYED, PlayRecord

FALLEN = 0.1
"""A fall from which an environment comes first."""
PRIOR = 8
"""Episodes without a fall that every estimate begins with: 8 failures where half succeeded before count as a fall of .25."""
RECENT = 2
"""Batches in which an environment was last replayed, by which its fall is judged: an earlier fall may be repaired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayCandidate:
    """An old environment that may be replayed."""

    name: str
    groups: int
    """Replayed in this job so far."""
    group_tokens: float
    """Expected tokens of one more group."""
    fall: float
    """How far its success rate has fallen, as `fall` estimates it."""


def replay_candidate(name: str, before: PlayRecord, replayed: Sequence[PlayRecord], members: int) -> ReplayCandidate:
    """An environment by its records of live play before the job, and of each batch of the job that replayed it; groups have `members`.

    What was never played is taken to have no tokens. Without live play, the first batch stands for it: the start's weights played it.
    """
    so_far = sum(replayed, NOTHING_PLAYED)
    known = so_far if so_far.episodes else before
    return ReplayCandidate(
        name=name,
        groups=so_far.groups,
        group_tokens=members * mean_tokens(known, 0.0),
        fall=fall(before if before.episodes else sum(replayed[:1], NOTHING_PLAYED), sum(replayed[-RECENT:], NOTHING_PLAYED)),
    )


def mean_tokens(record: PlayRecord, unknown: float) -> float:
    """Tokens of an episode; `unknown` if there is none."""
    return record.tokens / record.episodes if record.episodes else unknown


def fall(before: PlayRecord, recent: PlayRecord) -> float:
    """The success rate before less that of recent episodes, shrunk towards 0 as if `PRIOR` more of them had not fallen."""
    if not before.episodes or not recent.episodes:
        return 0.0
    lost = before.successes / before.episodes - recent.successes / recent.episodes
    return lost * recent.episodes / (recent.episodes + PRIOR)


def choose_replay(candidates: Sequence[ReplayCandidate], groups: int, tokens: float) -> list[str]:
    """The environments of a batch, one name for each group: at most this many groups, and about this many tokens.

    All take turns: those with the fewest groups so far begin. An environment that has fallen gets one more turn before all others, and is
    first in every later one. A group that exceeds the rest of the tokens gives its place to a cheaper one; the first is always taken, so
    that an expensive environment is replayed in some batches, and in others not at all.
    """
    chosen: list[str] = []
    rest = tokens
    taken = {one.name: 0 for one in candidates}

    def turn(one: ReplayCandidate) -> tuple[int, float, int]:
        lost = one.fall if one.fall >= FALLEN else 0.0
        return taken[one.name] - (lost > 0), -lost, one.groups

    while len(chosen) < groups:
        affordable = [one for one in candidates if one.group_tokens <= rest or not chosen]
        if not affordable:
            break
        best = min(affordable, key=turn)
        taken[best.name] += 1
        rest -= best.group_tokens
        chosen.append(best.name)
    return chosen
