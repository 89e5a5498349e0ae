"""When a run ends by itself, and with which exit code. Pure: what has happened in, an outcome or none out.

An actor or a vLLM server that dies again and again ends every run, also one without limits. A daemon that stayed, and did nothing, would
look alive to whatever watches it; one that ends with 3 is started again by its service manager, and at last reported as failed. `perdure
status` needs no daemon and tells the reason either way. Learning that fails again and again ends only a run that waits for it: play goes on
without.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ends a run. With none of them it goes on until it is stopped, or until there is nobody left who could play."""

    cycles: int | None = None
    """So many verdicts."""
    until_promoted: bool = False
    """The first promotion, or `cycles` (where not given, `max_cycles`) verdicts without one."""
    tasks: int | None = None
    """That many tasks, done or failed. If the stream ends before, it ends a run with any limit."""
    job: int | None = None
    """The end of this job."""
    max_cycles: int = 3
    """`learn.max_cycles` of the configuration."""
    tries: int = 5
    """`supervise.tries` of the configuration."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What has happened since the run began."""

    tasks: int = 0
    job_ended: bool = False
    """The job of the limits is done or has failed."""
    verdicts: int = 0
    promoted: str | None = None
    """The version that a verdict let serve."""
    failures: int = 0
    """Learning jobs that failed, in a row."""
    fruitless: int = 0
    """Times, in a row, that it was time to learn but nothing was learnable."""
    dying: str = "actor"
    """Which process it is that dies: the actor, or the vLLM server."""
    deaths: int = 0
    """Of that process, in a row, each soon after its start."""
    death: str = ""
    """Why it died the last time."""
    played_out: bool = False
    """The stream has come to its end, all is played, and nothing is left to be learned."""
    last: str = ""
    """The reason of the last verdict, failure or fruitless look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended: 0 done, 1 what was waited for did not come, 2 the configuration cannot work, 3 it failed."""

    code: int
    reason: str


def outcome(limits: Limits, tally: Tally) -> Outcome | None:
    """The outcome of a run, once one of its limits is reached."""
    if tally.job_ended:
        return Outcome(code=0, reason=f"job {limits.job} has ended")
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
    if tally.played_out and (learns or limits.tasks is not None):
        return Outcome(code=1, reason=f"the stream came to its end before that, after {_some(tally.verdicts, 'verdict')}")
    if learns and tally.failures >= limits.tries:
        return Outcome(code=3, reason=f"{_some(tally.failures, 'learning job')} failed in a row; the last: {tally.last}")
    if tally.deaths >= limits.tries:
        return Outcome(
            code=3, reason=f"the {tally.dying} is given up after {_some(tally.deaths, 'death')} in a row; the last: {tally.death}"
        )
    return None


def _some(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)
