"""The planner: what a home does next, and why. Pure: a life goes in, a step with its reason comes out.

In this order: what follows the last verdict (`follow_up.py`); the target that promises most (`worth.py`); a first success in an environment
without any (`first_success.py`); a repair of what stands below its anchors (`repairs.py`); nothing, with the reason.
Left out: when to ask, and queueing the step (`agent/supervision/learning_jobs.py`).
"""

from __future__ import annotations

from dataclasses import replace

from perdure.agent.planning.first_success import first_success, no_help
from perdure.agent.planning.follow_up import follow_up
from perdure.agent.planning.life_so_far import LifeSoFar
from perdure.agent.planning.panel_care import panel_care
from perdure.agent.planning.repairs import MOST_REPAIRS, in_points, repairs_without_promotion, serving_below
from perdure.agent.planning.step_kinds import LearnNext, NextStep, NothingNext, Unfollowed
from perdure.agent.planning.track_record import track_records
from perdure.agent.planning.worth import PRIOR_EPISODES, Prospect, choose, estimate, obstacle, prospects, reason
from perdure.learners.gate.scope import CEILING

NOTHING_LEFT = "nothing left to learn"
NOT_YET = "nothing is learnable yet"


def next_step(life: LifeSoFar, prior_episodes: float = PRIOR_EPISODES) -> NextStep:
    """What to do next. `prior_episodes`: how much older versions' live play counts."""
    following = follow_up(life)
    if following is not None and not isinstance(following, Unfollowed):
        return with_care(following, life) if isinstance(following, LearnNext) else following
    return ordinary_step(life, prior_episodes, None if following is None else following.why)


def ordinary_step(life: LifeSoFar, prior_episodes: float = PRIOR_EPISODES, unfollowed: str | None = None) -> LearnNext | NothingNext:
    """What to do next if no verdict is to be followed; `unfollowed` says why the last one is not."""
    able = prospects(life, prior_episodes)
    chosen = choose(able)
    step = LearnNext(targets=(chosen.name,), why=reason(chosen)) if chosen is not None else first_success(life) or _left_to_repair(life)
    if step is None:
        return NothingNext(why=_nothing(life, able), unfollowed=unfollowed)
    return with_care(replace(step, unfollowed=unfollowed), life)


def with_care(step: LearnNext, life: LifeSoFar) -> LearnNext:
    """The same with what the capability panel asks for, and why."""
    care = panel_care(life)
    if care.why is None:
        return step
    return replace(step, care=care, why=f"{step.why}; {care.what}, since {care.why}")


def _left_to_repair(life: LifeSoFar) -> LearnNext | None:
    """A repair of all that is below its anchor, except what could not be repaired since this version serves, or is set aside.

    Where live play is above the gate's ceiling no gain could be shown.
    """
    records = track_records(life)
    seen = {environment.name: estimate(environment.rates) for environment in life.environments}
    short = {
        name: points
        for name, points in serving_below(life).items()
        if repairs_without_promotion(life, [name]) < MOST_REPAIRS
        and not (name in records and records[name].set_aside)
        and not ((found := seen[name]) is not None and found.success > CEILING)
    }
    if not short:
        return None
    why = f"no target is left, and {life.serving} is below its anchors in {in_points(short)}"
    return LearnNext(targets=tuple(short), aim="repair", why=why)


def _nothing(life: LifeSoFar, able: list[Prospect]) -> str:
    if not able:
        return f"{NOT_YET}: the stream has no environments; name some under [stream] in perdure.toml"
    if all(not environment.rates or not environment.rates[-1].episodes for environment in life.environments if environment.streamed):
        return f"{NOT_YET}: the serving version has completed no episode yet"
    helpless = no_help(life)
    reasons = {prospect.name: helpless.get(prospect.name) or obstacle(prospect) or "promises nothing" for prospect in able}
    below = serving_below(life)
    for name, points in below.items():
        could_not = f"is {100 * points:.0f} points below its anchor and could not be repaired"
        reasons[name] = f"{reasons[name]}, and {could_not}" if name in reasons else could_not
    state = NOT_YET if any(prospect.estimate is None or "needs" in reasons[prospect.name] for prospect in able) else NOTHING_LEFT
    return f"{state}: " + "; ".join(f"{name} {text}" for name, text in reasons.items())
