"""What follows a verdict without promotion. A pure function of the evidence of that gate, and of what followed it already.

    verdict                                                   what follows
    all held, the gain was not shown                          training goes on from the candidate, at most 3 times in a row
    not shown to hold, the gain was shown or not asked for    the same candidate is gated once more, and its wealth goes on
    the same after the second gate                            as if something had fallen
    something fell, or neither gain nor hold was shown        a repair: all that is below its anchor, with the old target; from the
                                                              candidate if its gain was shown and nothing collapsed with it
    there is no gain, or nothing was left to gain             nothing: the choice of the next target counts it (`track_record.py`)

A verdict is open until a job follows it, a later job has the same target, or a version is promoted. If nothing follows, it says why.
"""

from __future__ import annotations

from collections.abc import Iterable

from perdure.agent.planning.life_so_far import LifeSoFar, followed_by, may_promote, root_of, since_promotion
from perdure.agent.planning.repairs import MOST_REPAIRS, candidate_below, collapsed, in_points, repairs_without_promotion, serving_below
from perdure.agent.planning.step_kinds import GateNext, LearnNext, Unfollowed
from perdure.agent.planning.track_record import track_records
from perdure.learners.gate.promotion import all_held, fell, fell_together, gain_asked, gain_shown, not_shown_to_hold, pool_not_shown
from perdure.memory.contracts.orders import GateOrder, Job, LearnOrder
from perdure.memory.contracts.results import GateResult

MOST_CONTINUATIONS = 3
"""How often in a row training goes on from a candidate that holds."""

FollowUp = LearnNext | GateNext | Unfollowed


def follow_up(life: LifeSoFar) -> FollowUp | None:
    """What follows the newest verdict that is still open, or why nothing does; None if no verdict is open."""
    last: Unfollowed | None = None
    for job, result in open_verdicts(life):
        found = _after(job, result, life)
        if not isinstance(found, Unfollowed):
            return found
        last = last or found
    return last


def open_verdicts(life: LifeSoFar) -> list[tuple[Job, GateResult]]:
    """The verdicts against the serving version that nothing has answered yet, the newest first."""
    found: list[tuple[Job, GateResult]] = []
    answered: set[int] = set()
    tried: set[str] = set()
    for job in since_promotion(life):
        order = job.order
        if not may_promote(job) or not isinstance(order, LearnOrder | GateOrder):
            continue
        if job.gate is not None and job.gate.serving == life.serving and job.id not in answered and tried.isdisjoint(job.targets):
            found.append((job, job.gate))
        if order.follows is not None and not (isinstance(order, GateOrder) and job.state == "failed"):
            answered.add(order.follows)
        if isinstance(order, LearnOrder):
            tried.update(job.targets)
    return found


def _after(job: Job, result: GateResult, life: LifeSoFar) -> FollowUp:
    candidate = result.candidate
    retired = [name for name in dict.fromkeys((*job.targets, *root_of(job, life).targets)) if name not in _names(life)]
    if retired:
        return Unfollowed(job=job.id, why=f"nothing follows the verdict on {candidate}: {_named(retired)} is retired")
    lacks_gain = gain_asked(result) and not gain_shown(result)
    if result.verdict == "reject" and not _fell(result):
        return Unfollowed(job=job.id, why=f"nothing follows the verdict on {candidate}: {result.reason}")
    if result.verdict == "inconclusive" and all_held(result) and not lacks_gain:
        return Unfollowed(job=job.id, why=f"nothing follows the verdict on {candidate}: {result.reason}")
    if result.verdict == "inconclusive" and all_held(result):
        return _go_on(job, result, life)
    if result.verdict == "inconclusive" and not lacks_gain and not _gated_twice(candidate, job, life):
        return _gate_again(job, result, life)
    return _repair(job, result, life)


def _go_on(job: Job, result: GateResult, life: LifeSoFar) -> FollowUp:
    candidate, targets = result.candidate, ", ".join(job.targets)
    if (times := _continuations(job, life)) >= MOST_CONTINUATIONS:
        return Unfollowed(
            job=job.id, why=f"training does not go on from {candidate}: it did {times} times, and no gain in {targets} was shown"
        )
    if candidate not in life.usable:
        return Unfollowed(job=job.id, why=f"training does not go on from {candidate}: {_unusable(candidate)}")
    records = track_records(life)
    if all(name in records and records[name].set_aside for name in job.targets):
        return Unfollowed(job=job.id, why=f"training does not go on from {candidate}: {targets} is set aside after too many refusals")
    root = root_of(job, life).order
    same = root if isinstance(root, LearnOrder) and root.aim == "first success" else None
    return LearnNext(
        targets=job.targets,
        aim="continuation",
        learner=same.learner if same else None,
        options=same.options if same else {},
        start=candidate,
        follows=job.id,
        why=f"training goes on from {candidate}: with it all held, and a gain in {targets} was not shown yet",
    )


def _gate_again(job: Job, result: GateResult, life: LifeSoFar) -> FollowUp:
    candidate = result.candidate
    if candidate not in life.usable:
        return Unfollowed(job=job.id, why=f"{candidate} is not gated once more: {_unusable(candidate)}")
    gain = "its gain was shown" if gain_shown(result) else "no gain was asked for"
    return GateNext(
        candidate=candidate,
        targets=job.targets,
        follows=job.id,
        why=f"{candidate} is gated once more: {gain}, and {_named(_missing(result))} could not be shown to hold",
    )


def _repair(job: Job, result: GateResult, life: LifeSoFar) -> FollowUp:
    candidate, wanted = result.candidate, root_of(job, life).targets
    what = _named(fell(result) or not_shown_to_hold(result)) or "the earlier environments together"
    happened = f"{what} fell with {candidate}" if _fell(result) else f"{what} could not be shown to hold with {candidate}"
    if (times := repairs_without_promotion(life, wanted)) >= MOST_REPAIRS:
        pair = _named(wanted)
        return Unfollowed(
            job=job.id,
            why=f"{pair} and {what} could not be held together: {times} repairs led to no promotion, so no other is tried until one comes",
        )
    lost = candidate_below(result, _names(life))
    from_candidate = gain_shown(result) and candidate in life.usable and not collapsed(result, lost)
    short = lost if from_candidate else serving_below(life)
    start = candidate if from_candidate else life.serving
    if not short:
        return Unfollowed(job=job.id, why=f"{happened}, and nothing is repaired: {start} is below no anchor as far as its pairs show")
    again = [] if from_candidate or not _is_repair(job, life) else [name for name in fell(result) if name not in wanted]
    return LearnNext(
        targets=tuple(dict.fromkeys([*wanted, *short, *again])),
        aim="repair",
        start=candidate if from_candidate else None,
        follows=job.id,
        why=f"{happened}: the next job repairs what is below its anchor with {start}: {in_points(short)}"
        + ("" if set(wanted) <= set(short) else f"; and keeps {_named(wanted)} as a target"),
    )


def _names(life: LifeSoFar) -> set[str]:
    """The environments in use."""
    return {environment.name for environment in life.environments}


def _fell(result: GateResult) -> bool:
    """Whether an environment fell, or all together."""
    return bool(fell(result)) or fell_together(result)


def _is_repair(job: Job, life: LifeSoFar) -> bool:
    """Whether the candidate of this verdict was made by a repair."""
    made: Job | None = job
    while made is not None and isinstance(made.order, GateOrder):
        made = followed_by(made, life)
    return made is not None and isinstance(made.order, LearnOrder) and made.order.aim == "repair"


def _missing(result: GateResult) -> list[str]:
    """What was not shown to hold."""
    return [*not_shown_to_hold(result), *(["the earlier environments together"] if pool_not_shown(result) else [])]


def _gated_twice(candidate: str, job: Job, life: LifeSoFar) -> bool:
    """Whether a gate of this candidate was queued to follow a verdict before, or the verdict is that gate's."""
    return isinstance(job.order, GateOrder) or any(
        isinstance(other.order, GateOrder) and other.order.leads_to == "promotion" and other.order.candidate == candidate
        for other in life.jobs
    )


def _continuations(job: Job, life: LifeSoFar) -> int:
    """How often in a row training went on from a candidate, up to this job."""
    times = 0
    at: Job | None = job
    while at is not None:
        if isinstance(at.order, LearnOrder):
            if at.order.aim != "continuation":
                break
            times += 1
        at = followed_by(at, life)
    return times


def _unusable(candidate: str) -> str:
    return f"its files are gone, or what {candidate} was made from was rolled back"


def _named(names: Iterable[str]) -> str:
    *most, last = list(names) or [""]
    return f"{', '.join(most)} and {last}" if most else last
