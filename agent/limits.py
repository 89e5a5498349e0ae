"""When a run ends by itself, and with which exit code. Pure: what has happened in, an outcome or none out."""

from __future__ import annotations

from dataclasses import dataclass

FAILURES = 3
"""Jobs that failed in a row after which a run with limits gives up."""

DEATHS = 5
"""Deaths of the actor in a row, each soon after its start, after which a run with limits gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ends a run. With none of them it goes on until it is stopped."""

    cycles: int | None = None
    """So many verdicts."""
    until_promoted: bool = False
    """The first promotion, or `cycles` (where not given, `max_cycles`) verdicts without one."""
    tasks: int | None = None
    """So many tasks, done or failed."""
    max_cycles: int = 3
    """`learn.max_cycles` of the configuration."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What has happened since the run began."""

    tasks: int = 0
    verdicts: int = 0
    promoted: str | None = None
    """The version that a verdict let serve."""
    failures: int = 0
    """Learning jobs that failed, in a row."""
    fruitless: int = 0
    """Times, in a row, that it was time to learn but nothing was learnable."""
    deaths: int = 0
    """Of the actor, in a row."""
    last: str = ""
    """The reason of the last verdict, failure, death or fruitless look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended: 0 done, 1 what was waited for did not come, 2 the configuration cannot work, 3 it failed."""

    code: int
    reason: str


def outcome(limits: Limits, tally: Tally) -> Outcome | None:
    """The outcome of a run, once one of its limits is reached."""
    learns = limits.until_promoted or limits.cycles is not None
    short = 1 if limits.until_promoted else 0
    cycles = limits.cycles if limits.cycles is not None else limits.max_cycles if limits.until_promoted else None
    if limits.until_promoted and tally.promoted is not None:
        return Outcome(code=0, reason=f"{tally.promoted} was promoted")
    if cycles is not None and tally.verdicts >= cycles:
        without = " without a promotion" if tally.promoted is None else ""
        return Outcome(code=short, reason=f"{_some(tally.verdicts, 'verdict')}{without}; the last: {tally.last}")
    if limits.tasks is not None and tally.tasks >= limits.tasks:
        without = ", without a promotion" if limits.until_promoted else ""
        return Outcome(code=short, reason=f"{_some(tally.tasks, 'task')} played{without}")
    if learns and tally.fruitless >= limits.max_cycles:
        return Outcome(code=1, reason=f"it was time to learn {tally.fruitless} times, but {tally.last}")
    if learns and tally.failures >= FAILURES:
        return Outcome(code=3, reason=f"{tally.failures} learning jobs failed in a row; the last: {tally.last}")
    if (learns or limits.tasks is not None) and tally.deaths >= DEATHS:
        return Outcome(code=3, reason=f"the actor died {tally.deaths} times in a row; the last time it {tally.last}")
    return None


def _some(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)
