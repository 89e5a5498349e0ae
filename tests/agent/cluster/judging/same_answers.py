"""Homes, an engine and gates in which every answer is fixed by version, draw and number: the same wherever it is given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fakes import ByteChat, ScriptedEngine, ScriptedPolicy

from perdure.agent.cluster.judging.errand_play import ErrandMeans
from perdure.agent.config import Config
from perdure.agent.processes.child import Stop
from perdure.agent.processes.job_work import Work
from perdure.agent.processes.judging import apply_verdict, judge
from perdure.agent.processes.pulse import Pulse
from perdure.agent.stream.registering import register_environments
from perdure.envs.policy import Policy, Request, Sample
from perdure.envs.rollout import never, nothing
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.learners.gate.engine_player import LoadedModel
from perdure.memory import versions
from perdure.memory.contracts.orders import GateOrder
from perdure.memory.contracts.results import GateResult
from perdure.memory.jobs import add_job, finish_job, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.records import Sampler
from perdure.memory.store import Store, create_store

ASKS = "py:tests.agent.skill:Asks"
NAMES = [f"{ASKS}?name=a", f"{ASKS}?name=b", f"{ASKS}?name=c", f"{ASKS}?name=d&fails=11"]
A = NAMES[0]
SKILLS: Mapping[str, Mapping[str, float]] = {
    "v0": {"else": 0.9, "a": 0.2},
    "v1": {"else": 0.9, "a": 0.9},
    "v2": {"else": 0.9, "a": 0.9, "c": 0.2},
}
SETTINGS: dict[str, Any] = {
    "stream": {"environments": NAMES},
    "sandbox": {"trusted": [ASKS]},
    "gate": {"profile": "economy", "samples": 2, "panel": False},
}
HERE = Config.model_validate(SETTINGS)
ELSEWHERE = Config.model_validate({**SETTINGS, "cluster": {"address": "local", "players": 3, "node_timeout_s": 250}})


@dataclass
class KnowingPolicy:
    """Says 'yes' to the n-th time that a batch asks a question if its skill is above what that takes: the same for every version."""

    skills: Mapping[str, float]
    sampler: Sampler

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        asked: Counter[str] = Counter()
        samples = []
        for request in requests:
            said = ByteChat().messages(request.prompt_ids)[-1].text
            asked[said] += 1
            yes = Random(f"{said} {asked[said]}").random() < self.skills.get(said.split()[0], self.skills["else"])
            samples += ScriptedPolicy(lambda _, yes=yes: "yes" if yes else "no", self.sampler).generate([request])  # type: ignore[misc]
        return samples


@dataclass
class KnowingEngine(ScriptedEngine):
    """The engine of every player, and of one machine."""

    def policy(self, sampler: Sampler) -> Policy:  # type: ignore[override]
        self.require(sampler)
        return KnowingPolicy(SKILLS[str(sampler)], sampler)


@dataclass
class JudgingPulse(Pulse):
    """A pulse that lets something happen meanwhile."""

    store: Store
    meanwhile: Callable[[], None] = field(default=nothing)

    def __post_init__(self) -> None:
        super().__init__(self.store, "job")

    def go_on(self) -> None:
        super().go_on()
        self.meanwhile()


def make_home(home: Path) -> Store:
    """A home in which v0 serves; v1 and v2 learned a, and v2 lost c."""
    store = create_store(home)
    versions.add_initial(store, "scripted", "0" * 64)
    register_environments(store, [HERE.environment(name) for name in NAMES])
    for name in ("v1", "v2"):
        versions.add_candidate(store, None, name, "v0", f"hash of {name}", None, [A], None)
    return store


def means(store: Store, at_once: int = 64, stop: Callable[[], bool] = never) -> ErrandMeans:
    """What a player plays with: an engine of its own."""
    return ErrandMeans(
        model=LoadedModel(LoadedVersions(store, KnowingEngine())), load=HERE.environment, at_once=at_once, stop=stop, each_round=nothing
    )


def work_on(
    store: Store, candidate: str, config: Config, meanwhile: Callable[[], None] = nothing, stop: Callable[[], bool] | None = None
) -> Work:
    """A job that gates a candidate, leased; the next attempt at it if there was one."""
    number = add_job(store, f"gate {candidate}", [A], GateOrder(candidate=candidate, leads_to="promotion"))
    leased = lease_job(store, f"job-{number}:1", 600.0, BootClock(), number)
    assert leased is not None
    return Work(
        store=store,
        config=config,
        versions=LoadedVersions(store, KnowingEngine()),
        job=leased[0],
        lease=leased[1],
        pulse=JudgingPulse(store, meanwhile),
        stop=stop or Stop(),
    )


def gated(work: Work) -> GateResult:
    """Run the whole gate of a job, and do what its verdict leads to."""
    order = work.job.order
    assert isinstance(order, GateOrder)
    result = judge(work, versions.get_version(work.store, order.candidate), order)
    with work.store.write():
        apply_verdict(work, result)
        finish_job(work.store, work.lease, result, order.candidate)
    return result
