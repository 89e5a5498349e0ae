"""A life, look by look: the planner says what comes next, the model of skills does it, the gate judges, and the verdict is applied."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from random import Random
from statistics import fmean

from perdure.agent.planning.next_step import next_step
from perdure.agent.planning.step_kinds import GateNext, LearnNext
from perdure.agent.planning.worth import MASTERED
from perdure.agent.studies.lives.simulated_gate import gate
from perdure.agent.studies.lives.simulated_home import SimulatedHome, begin_look, life_so_far, new_home
from perdure.agent.studies.lives.skill_model import LifeModel, after_job
from perdure.memory.contracts.orders import GateOrder, Job, LearnOrder, Order
from perdure.memory.contracts.results import Cost, GateResult, LearnResult, Selection
from perdure.memory.json_value import Document

JOB_S, GATE_S = 60.0, 60.0
"""Of every simulated job and gate: no environment costs more than another."""


@dataclass(slots=True, kw_only=True)
class LifeCounts:
    """What happened in a life, and how far it fell."""

    learning_jobs: int = 0
    jobs_on_chance: int = 0
    repairs: int = 0
    continuations: int = 0
    gated_again: int = 0
    idle_looks: int = 0
    gate_episodes: int = 0
    promoted_at: list[int] = field(default_factory=list)
    """The looks."""
    deepest_fall: float = 0.0
    """How far a promoted version was below the best promoted before it, in its worst environment."""
    fall_at_end: float = 0.0
    """How far the last version is below the best promoted ever, in its worst environment."""
    unfollowed: dict[str, int] = field(default_factory=dict)
    """Verdicts without promotion that nothing followed, by verdict."""


def live(model: LifeModel, looks: int, rng: Random) -> tuple[SimulatedHome, LifeCounts]:
    """A whole life."""
    home, counts = new_home(model, rng), LifeCounts()
    best: dict[str, float] = {}
    fruitless = 0
    for look in range(looks):
        home.look = look
        begin_look(home)
        step = next_step(life_so_far(home, fruitless))
        _count_unfollowed(home, counts, None if isinstance(step, GateNext) else step.unfollowed)
        if isinstance(step, GateNext):
            fruitless = 0
            counts.gated_again += 1
            order = GateOrder(candidate=step.candidate, leads_to="promotion", why=step.why, follows=step.follows)
            result = _judge(home, order, step.candidate, step.targets)
        elif isinstance(step, LearnNext):
            fruitless = 0
            candidate = _learn(home, step, counts)
            learning = LearnOrder(
                learner=step.learner or "grpo",
                options=step.options,
                start=step.start,
                why=step.why,
                aim=step.aim,
                follows=step.follows,
            )
            result = _judge(home, learning, candidate, step.targets)
        else:
            fruitless += 1
            counts.idle_looks += 1
            continue
        counts.gate_episodes += result.candidate_episodes + result.anchor_episodes
        if result.verdict == "promote":
            counts.promoted_at.append(look)
            counts.deepest_fall = max(counts.deepest_fall, _fall(home, best))
    counts.fall_at_end = max((skill - home.success(home.serving, name) for name, skill in best.items()), default=0.0)
    return home, counts


def summary(home: SimulatedHome, counts: LifeCounts) -> Document:
    """One row: the counts, and the true skills at the end."""
    learnable = [one for one in home.model.environments if one.learnable and one.name in home.anchors and one.changes_at is None]
    end = {one.name: home.success(home.serving, one.name) for one in learnable}
    above = [skill - home.success(home.anchors[name], name) for name, skill in end.items()]
    return {
        **asdict(counts),
        "promotions": len(counts.promoted_at),
        "end": fmean(end.values()),
        "worst": min(end.values()),
        "end_by_environment": end,
        "stalled": _stalled(home, counts),
        "above_anchors": fmean(above),
        "most_above_anchor": max(above),
    }


def _stalled(home: SimulatedHome, counts: LifeCounts) -> bool:
    """Whether nothing was promoted in the second half of the life, though something on the stream can still be learned."""
    left = [
        one
        for one in home.model.environments
        if one.learnable and one.streamed(home.look) and not one.changed(home.look) and home.success(home.serving, one.name) < MASTERED
    ]
    return bool(left) and not any(2 * look > home.look for look in counts.promoted_at)


def _learn(home: SimulatedHome, step: LearnNext, counts: LifeCounts) -> str:
    """Make a candidate, and count the job."""
    counts.learning_jobs += 1
    counts.repairs += step.aim == "repair"
    counts.continuations += step.aim == "continuation"
    by_chance = {one.name for one in home.model.environments if not one.learnable}
    counts.jobs_on_chance += not by_chance.isdisjoint(step.targets)
    candidate = f"v{len(home.skills)}"
    start = home.skills[step.start or home.serving]
    home.skills[candidate] = after_job(start, step.targets, step.aim, home.model, home.rng, known=home.anchors)
    return candidate


def _judge(home: SimulatedHome, order: Order, candidate: str, targets: tuple[str, ...]) -> GateResult:
    """Gate the candidate, write the job down, and apply the verdict."""
    number = len(home.jobs) + 1
    result = gate(home, candidate, targets, number)
    learned = LearnResult(
        version=candidate,
        verdict=result.verdict,
        reason=result.reason,
        diagnostics=None,
        selection=Selection(step=1, reason="the last step"),
        cost=Cost(updates=1, sampled_tokens=1, learned_tokens=1, sampling_s=0.0, learning_s=0.0),
        gate=result,
        learn_s=JOB_S,
        gate_s=GATE_S,
    )
    home.jobs.append(
        Job(
            id=number,
            order=order,
            targets=targets,
            state="done",
            attempt=1,
            candidate=candidate,
            result=learned if isinstance(order, LearnOrder) else result,
            error=None,
            created=float(number),
        )
    )
    if result.verdict == "promote":
        home.led.append(candidate)
        home.anchors.update(dict.fromkeys(result.new_anchors, candidate))
    return result


def _fall(home: SimulatedHome, best: dict[str, float]) -> float:
    """How far the version that was just promoted is below the best promoted so far, which it becomes if it is better."""
    deepest = 0.0
    for one in home.model.environments:
        if one.learnable and one.name in home.anchors and one.changes_at is None:
            skill = home.success(home.serving, one.name)
            before = best.setdefault(one.name, home.success(home.led[-2], one.name))
            deepest = max(deepest, before - skill)
            best[one.name] = max(before, skill)
    return deepest


def _count_unfollowed(home: SimulatedHome, counts: LifeCounts, why: str | None) -> None:
    if why is not None and home.jobs:
        verdict = home.jobs[-1].verdict or "none"
        counts.unfollowed[verdict] = counts.unfollowed.get(verdict, 0) + 1
