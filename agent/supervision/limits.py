"""When a run ends by itself, and with which exit code. Pure: a tally of what has happened goes in, an outcome or None comes out.

If the actor or the vLLM server dies again and again, every run ends, also one without limits. A daemon that stayed and did nothing would
look alive to its service manager; one that ends with 3 is started again, and finally reported as failed. `perdure status` needs no daemon
and shows the reason either way. If learning fails again and again, only a run that waits for it ends: otherwise play goes on without it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What ends a run. Without limits it goes on until it is stopped, or until the actor or the vLLM server is given up."""

    cycles: int | None = None
    """That many verdicts."""
    until_promoted: bool = False
    """The first promotion, or `cycles` (if not given, `max_cycles`) verdicts without one."""
    tasks: int | None = None
    """That many tasks, done or failed. A run with any limit also ends when the stream has ended and is played out."""
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
    """The first version that was promoted."""
    failures: int = 0
    """Learning jobs that failed, in a row."""
    fruitless: int = 0
    """Times, in a row, that it was time to learn but nothing was learnable."""
    worst_child: str = "actor"
    """The child that has died most often in a row: the actor, or the vLLM server."""
    deaths: int = 0
    """Of that child, in a row, each soon after its start."""
    death: str = ""
    """Why it died the last time."""
    played_out: bool = False
    """The stream has ended, all its tasks are played, and nothing is left to learn."""
    last: str = ""
    """The reason of the last verdict, failure or fruitless check."""


FAILED = 3
"""The exit code of a run that gave up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended: 0 done, 1 the promotion or the tasks did not come, 2 the configuration cannot work, 3 it failed."""

    code: int
    reason: str


def outcome(limits: Limits, tally: Tally) -> Outcome | None:
    """The outcome of a run when one of its limits is reached; None before."""
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
        return Outcome(code=1, reason=f"the stream ended before {_goal(limits)}, after {_some(tally.verdicts, 'verdict')}")
    if learns and tally.failures >= limits.tries:
        return Outcome(code=3, reason=f"{_some(tally.failures, 'learning job')} failed in a row; the last: {tally.last}")
    if tally.deaths >= limits.tries:
        return Outcome(
            code=3, reason=f"the {tally.worst_child} is given up after {_some(tally.deaths, 'death')} in a row; the last: {tally.death}"
        )
    return None


def _goal(limits: Limits) -> str:
    if limits.until_promoted:
        return "any promotion"
    return _some(limits.tasks, "task") if limits.tasks is not None else _some(limits.cycles or 0, "verdict")


def _some(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)
