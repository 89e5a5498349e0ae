"""Parts of invented lives, for tests of the planner: jobs with their verdicts, the newest first, and environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tests.results import gate_result, learn_result

from perdure.agent.planning.life_so_far import EnvironmentNow, LifeSoFar
from perdure.memory.contracts.orders import Aim, GateOrder, Job, LearnOrder, OptionValue
from perdure.memory.contracts.results import GateResult, Leg, LegState
from perdure.memory.records import Decision
from perdure.memory.trajectories.episodes import RateRow

ADD, SORT, SPELL = "perdure:add", "perdure:sort", "perdure:spell"


def rate(successes: int, mixed: int, episodes: int = 64, groups: int = 8) -> RateRow:
    return RateRow(episodes=episodes, successes=successes, groups=groups, mixed_groups=mixed)


def environment(name: str, *rates: RateRow) -> EnvironmentNow:
    return EnvironmentNow(name=name, rates=rates)


def leg(difference: float, pairs: int, state: LegState = "passed") -> Leg:
    return Leg(state=state, mean_difference=difference, n=pairs)


def verdict(
    decision: Decision,
    candidate: str,
    *,
    gain: LegState = "passed",
    pooled: LegState = "passed",
    serving: str = "v0",
    regressed: tuple[str, ...] = (),
    trained: Mapping[str, Leg] | None = None,
    reason: str = "as the test wants it",
    **environments: Leg,
) -> GateResult:
    """The keywords that name environments are `add`, `sort` and `spell`. A gain that was shown is one of 40 points in `ADD`."""
    if trained is None and gain == "passed":
        trained = {ADD: leg(0.4, 20)}
    legs = {f"perdure:{name}": leg for name, leg in environments.items()}
    made = gate_result(
        decision, candidate=candidate, environments=legs, pooled=Leg(state=pooled), gain=gain, trained=trained, reason=reason
    )
    return replace(made, serving=serving, evidence=replace(made.evidence, regressed=regressed))


def learned(
    number: int,
    targets: Sequence[str],
    result: GateResult | None,
    *,
    aim: Aim = "gain",
    follows: int | None = None,
    learner: str = "grpo",
    options: Mapping[str, OptionValue] | None = None,
    start: str | None = None,
    seconds: float = 3.0,
) -> Job:
    """A learning job that is done; with None it has failed."""
    order = LearnOrder(learner=learner, options=options or {}, start=start, aim=aim, follows=follows)
    return Job(
        id=number,
        order=order,
        targets=tuple(targets),
        state="failed" if result is None else "done",
        attempt=1,
        candidate=None if result is None else result.candidate,
        result=None if result is None else replace(learn_result(result, version=result.candidate), learn_s=seconds, gate_s=0.0),
        error="it broke" if result is None else None,
        created=0.0,
    )


def gated(number: int, targets: Sequence[str], result: GateResult | None, *, candidate: str = "v1", follows: int | None) -> Job:
    """A gate that is done; with None it has failed."""
    return Job(
        id=number,
        order=GateOrder(candidate=candidate, leads_to="promotion", follows=follows),
        targets=tuple(targets),
        state="failed" if result is None else "done",
        attempt=1,
        candidate=None if result is None else candidate,
        result=result,
        error="it broke" if result is None else None,
        created=0.0,
    )


def life(*jobs: Job, environments: Sequence[EnvironmentNow] = (), fruitless: int = 0, gone: Sequence[str] = ()) -> LifeSoFar:
    """`jobs` the newest first. The files of all candidates are there, but for those that are gone."""
    names = {job.candidate for job in jobs if job.candidate} | {job.order.candidate for job in jobs if isinstance(job.order, GateOrder)}
    return LifeSoFar(
        serving="v0",
        environments=tuple(environments) or tuple(EnvironmentNow(name=name) for name in (ADD, SORT, SPELL)),
        jobs=jobs,
        usable=frozenset(names - set(gone)),
        fruitless=fruitless,
    )
