"""What to learn next, and when nothing is worth learning. Pure: rates and past jobs go in, a choice with its reason comes out.

A target needs headroom, and groups whose members differ: if all eight episodes of a task score the same, comparing them teaches nothing.
Left out: when to ask (`learning_jobs.py`), and what the learner does with its target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perdure.learners.gate.promotion import only_gain_missing
from perdure.memory.contracts.orders import Job
from perdure.memory.jobs import ENDED
from perdure.memory.trajectories.episodes import RateRow

MASTERED = 0.9
"""An environment that succeeds this often has no headroom worth a learning job."""

MIN_EPISODES = 16
"""With fewer, a success rate is too uncertain to choose by."""

MIN_MIXED_SHARE = 0.1
"""At least this share of its groups must be mixed."""

JOBS_BEFORE_OTHERS = 2
"""After this many jobs in a row on a target without a promotion, another target that can be learned goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The target of the next learning job; `target` is None if nothing is learnable, and `reason` says why."""

    target: str | None
    reason: str


def choose_target(rates: Mapping[str, RateRow], environments: Sequence[str], refused: Mapping[str, int] | None = None) -> Choice:
    """The most promising environment: often won and often lost by the same policy, with headroom (`_worth`).

    `rates` are those of the serving version's live episodes. `refused` is how many of the last jobs on each target, in a row, led to no
    promotion (`refusals`); an environment that has used up the patience is chosen only if no other has signal.
    """
    if not environments:
        return Choice(target=None, reason="the stream has no environments: name some under [stream] in perdure.toml")
    played = {name: rates[name] for name in environments if name in rates and rates[name].episodes}
    if not played:
        return Choice(target=None, reason="the serving version has completed no episode yet")
    worth = {name: _worth(row) for name, row in played.items() if _obstacle(row) is None}
    if not worth:
        obstacles = "; ".join(f"{name} {_obstacle(row)}" for name, row in played.items())
        return Choice(target=None, reason=f"nothing is learnable now: {obstacles}")
    refused = refused or {}
    fresh = [name for name in worth if refused.get(name, 0) < JOBS_BEFORE_OTHERS]
    target = max(fresh or worth, key=lambda name: worth[name])
    return Choice(target=target, reason=f"{target} {_numbers(played[target])}{_tried(refused.get(target, 0))}")


def added_rates(first: Mapping[str, RateRow], second: Mapping[str, RateRow]) -> dict[str, RateRow]:
    """The rates of two versions' episodes together."""
    none = RateRow(episodes=0, successes=0, groups=0, mixed_groups=0)
    rows = {name: (first.get(name, none), second.get(name, none)) for name in (*first, *second)}
    return {
        name: RateRow(
            episodes=a.episodes + b.episodes,
            successes=a.successes + b.successes,
            groups=a.groups + b.groups,
            mixed_groups=a.mixed_groups + b.mixed_groups,
        )
        for name, (a, b) in rows.items()
    }


def refusals(jobs: Sequence[Job]) -> dict[str, int]:
    """For each target, how many of its latest learning jobs in a row led to no promotion.

    `jobs`, the newest first, are those since the serving version began to serve: an older one started from another base.
    """
    counted: dict[str, int] = {}
    promoted: set[str] = set()
    for job in jobs:
        if job.kind == "learn" and job.state in ENDED:
            for target in job.targets:
                if job.verdict == "promote":
                    promoted.add(target)
                elif target not in promoted and (job.state == "failed" or job.verdict is not None):
                    counted[target] = counted.get(target, 0) + 1
    return counted


def start_for(target: str, jobs: Sequence[Job]) -> str | None:
    """The candidate to continue training from: that of the target's latest job, if only its gain was missing.

    So slow progress adds up instead of starting over (GATE.md, 'Over time'). `jobs` as for `refusals`.
    """
    for job in jobs:
        if job.kind == "learn" and job.state in ENDED and target in job.targets:
            return job.candidate if job.gate is not None and only_gain_missing(job.gate) else None
    return None


def _worth(row: RateRow) -> float:
    """Share of mixed groups x p (1 - p) x (1 - p): learnability (Foster and Foerster 2025), times what there is to gain."""
    p = row.successes / row.episodes
    return row.mixed_groups / row.groups * p * (1 - p) ** 2


def _obstacle(row: RateRow) -> str | None:
    """Why an environment is no target; None if it is one."""
    if row.episodes < MIN_EPISODES or not row.groups:
        return f"has only {row.episodes} episodes and needs {MIN_EPISODES}"
    if row.successes >= MASTERED * row.episodes:
        return f"succeeds in {row.successes / row.episodes:.0%}, which leaves too little to gain"
    if row.mixed_groups < MIN_MIXED_SHARE * row.groups:
        return f"has {row.mixed_groups} mixed groups of {row.groups}: episodes of one task score the same, and teach nothing"
    return None


def _numbers(row: RateRow) -> str:
    share = f"{row.successes / row.episodes:.0%}"
    return f"succeeds in {share} of {row.episodes} live episodes, and {row.mixed_groups} of {row.groups} groups are mixed"


def _tried(times: int) -> str:
    return f"; its last {times} jobs led to no promotion" if times > 1 else ""
