"""Environments in which the agent never succeeds, so that reinforcement finds nothing: a first success must come from elsewhere.

An oracle's right answers as hints (STaR, Zelikman et al. 2022), once with each serving version; else imported traces, once as well; else it
is said. As soon as groups are mixed the environment is an ordinary target.
"""

from __future__ import annotations

from perdure.agent.planning.life_so_far import EnvironmentNow, LifeSoFar, since_promotion
from perdure.agent.planning.step_kinds import LearnNext
from perdure.agent.planning.worth import MIN_EPISODES, MIN_MIXED_SHARE, Estimate, estimate
from perdure.memory.contracts.orders import LearnOrder

RARE_SUCCESS = 0.05
"""Below this success rate, and with too few mixed groups, an environment is stuck."""
HINTS, TRACES = "iterative-sft", "trace-sft"


def first_success(life: LifeSoFar) -> LearnNext | None:
    """A job for the first environment that is stuck and has not been helped since this version serves; None if there is none."""
    for environment, seen in stuck(life):
        if _helped(environment.name, life):
            continue
        numbers = f"{environment.name} succeeds in {seen.success:.0%} of its live episodes, too seldom to learn from them"
        if environment.oracle is not False:
            return LearnNext(
                targets=(environment.name,),
                aim="first success",
                learner=HINTS,
                options={"hints": True},
                why=f"{numbers}: {HINTS} shows it right answers as hints",
            )
        if environment.traces is not None:
            return LearnNext(
                targets=(environment.name,),
                aim="first success",
                learner=TRACES,
                options={"traces": f"import:{environment.traces}"},
                why=f"{numbers}: {TRACES} imitates the imported traces of {environment.traces}",
            )
    return None


def stuck(life: LifeSoFar) -> list[tuple[EnvironmentNow, Estimate]]:
    """The environments of the stream without success, with what live play says."""
    seen = [(environment, estimate(environment.rates)) for environment in life.environments if environment.streamed]
    return [(environment, found) for environment, found in seen if found is not None and _is_stuck(found)]


def no_help(life: LifeSoFar) -> dict[str, str]:
    """Why nothing helps the stuck environments, by name."""
    return {
        environment.name: (
            "was given right answers since this version serves, and they led to no promotion"
            if _helped(environment.name, life)
            else "never succeeds and has neither an oracle nor imported traces: make its tasks easier, add shots=3, or import traces"
        )
        for environment, _ in stuck(life)
    }


def _is_stuck(seen: Estimate) -> bool:
    return seen.episodes >= MIN_EPISODES and seen.mixed < MIN_MIXED_SHARE and seen.success < RARE_SUCCESS


def _helped(name: str, life: LifeSoFar) -> bool:
    """Whether a job for a first success in it has ended since the serving version serves."""
    return any(
        isinstance(job.order, LearnOrder)
        and job.order.aim == "first success"
        and name in job.targets
        and (job.gate is None or job.gate.serving == life.serving)
        for job in since_promotion(life)
    )
