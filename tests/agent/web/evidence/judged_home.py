"""A home with a life in it, made by hand: versions in a tree, real gates whose every answer is in the store, panels, hostile texts.

v0 - v1 - v2 (serves, promoted by gate 1)
      |    +- v3 (rejected by gate 2: old3 fell, and arithmetic on the panel)
      |    +- v4 (candidate, gate 3 inconclusive)
      +- v5 (candidate, never gated)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from tests.learners.gate.gated_home import ANCHORS, OLD, gate_it, lease

from perdure.learners.gate.player import Draw, Scores
from perdure.learners.gate.scope import PROFILES
from perdure.learners.panel.panel_items import load_panel
from perdure.memory import environments, versions
from perdure.memory.contracts.panel_results import Measure
from perdure.memory.contracts.results import GateResult
from perdure.memory.evidence.item_scores import ItemMeasure, ItemScore, keep_panel_scores
from perdure.memory.leases import BootClock
from perdure.memory.records import Ending, EpisodePlan, Lease, Turn, VersionRef
from perdure.memory.store import Store, create_store
from perdure.memory.tasks import add_tasks, finish_task, lease_tasks
from perdure.memory.trajectories.journal import StoreJournal

SAMPLES = 2
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202eevil\u0000" + '"><img src=x onerror=alert(2)>'
HOSTILE_NAME = "py:evil:<script>alert(3)</script>"
SETTINGS = replace(PROFILES["standard"], samples=SAMPLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The home, and its gates by candidate."""

    home: Path
    gates: dict[str, GateResult]


@dataclass
class WrittenPlayer:
    """Answers with the skill of a version, and writes every answer down as an episode of three turns."""

    store: Store
    lease: Lease
    skill: Callable[[str, str], float]
    journal: StoreJournal = field(init=False)
    batches: int = 0

    def __post_init__(self) -> None:
        self.journal = StoreJournal(self.store, BootClock())

    def scores(self, version: str, draws: Sequence[Draw]) -> list[Scores]:
        self.batches += 1
        plans, rights = [], []
        for n, (environment, seed) in enumerate(draws):
            for member in range(SAMPLES):
                plans.append(
                    EpisodePlan(
                        environment=environment,
                        seed=seed,
                        group=f"job-{self.lease.subject}-gate-{self.batches}-{version}-{n}",
                        member=member,
                        purpose="gate",
                        sampler=VersionRef(version),
                        temperature=1.0,
                        lease=self.lease,
                    )
                )
                rights.append(Random(f"{environment} {seed} {member}").random() < self.skill(version, environment))
        ids = self.journal.start(plans)
        for n in range(3):
            self.journal.turns([(id_, n, played_turn(n, plan, right)) for id_, plan, right in zip(ids, plans, rights, strict=True)])
        self.journal.finish(
            [
                Ending(
                    episode=id_,
                    state="completed",
                    stop_reason="terminated",
                    total_reward=float(right),
                    success=right,
                    score=float(right),
                )
                for id_, right in zip(ids, rights, strict=True)
            ]
        )
        return [tuple(float(right) for right in rights[n : n + SAMPLES]) for n in range(0, len(rights), SAMPLES)]


def played_turn(n: int, plan: EpisodePlan, right: bool) -> Turn:
    """Turns 0 and 1 are the same for everybody on a seed; in turn 2 a wrong answer has another third token."""
    action = (70 + n, 80 + n, 99 if n == 2 and not right else 90 + n, 60 + n)
    return Turn(
        prompt_ids=tuple(range(10 + plan.seed % 7, 20 + plan.seed % 7)),
        action_ids=action,
        logprobs=(-0.25, -0.5, -3.0 if n == 2 and not right else -1.0, -0.125),
        observation=f"question {n} of seed {plan.seed}",
        action=f"answer {n}: {'right' if right or n < 2 else 'wrong'}",
        reward=float(right and n == 2),
        sampler=plan.sampler,
        finish="stop",
    )


def make_home(home: Path) -> dict[str, GateResult]:
    """Make it; gives the gates by candidate."""
    with create_store(home) as store:
        for name in (*OLD, "new", HOSTILE_NAME):
            environments.register(store, name, code="c0de")
        versions.add_initial(store, "tiny", "hash-of-tiny")
        for name, parent, target in (("v1", "v0", "old0"), ("v2", "v1", "new")):
            _candidate(store, name, parent, target)
            if name == "v1":
                versions.promote(store, name, "a first one")
        store.conn.execute("UPDATE environment SET anchor = 'v1' WHERE name LIKE 'old%'")
        _panel(store, "v0", {})
        _panel(store, "v1", {})
        first = _gated(store, "v2", _held)
        assert first.verdict == "promote", first.reason
        versions.promote(store, "v2", first.reason, gate=first.gate)
        _panel(store, "v2", {})
        _candidate(store, "v3", "v2", "new")
        _panel(store, "v3", {"arithmetic": 0.2})
        second = _gated(store, "v3", _fallen)
        assert second.verdict == "reject", second.reason
        versions.reject(store, "v3")
        _candidate(store, "v4", "v2", "new")
        third = _gated(store, "v4", _held, nmax=8)
        _candidate(store, "v5", "v1", "old1")
        _live(store)
    return {"v2": first, "v3": second, "v4": third}


def _held(version: str, environment: str) -> float:
    return 0.9 if environment in OLD else float(version != "v1")


def _fallen(version: str, environment: str) -> float:
    return 0.1 if (version, environment) == ("v3", "old3") else _held(version, environment)


def _candidate(store: Store, name: str, parent: str, target: str) -> None:
    (store.home / "versions" / name).mkdir()
    versions.add_candidate(store, None, name, parent, f"hash-of-{name}", f"versions/{name}", [target], None)


def _gated(store: Store, candidate: str, skill: Callable[[str, str], float], nmax: int = 192) -> GateResult:
    under = lease(store)
    player = WrittenPlayer(store, under, skill)
    settings = replace(SETTINGS, nmax=nmax)
    return gate_it(store, player, candidate=candidate, under=under, anchors=ANCHORS, settings=settings)  # type: ignore[arg-type]


def _panel(store: Store, version: str, lost: dict[str, float]) -> None:
    """Every item .7, less what was lost of its skill."""
    scores: list[tuple[ItemMeasure, ItemScore]] = []
    for skill in load_panel():
        measure: Measure = "choice" if skill.questions else "cross_entropy"
        score = (0.7 if skill.questions else 3.0) - lost.get(skill.name, 0.0)
        scores += [((skill.name, item.id, measure), ItemScore(score, item.content, "tiny")) for item in skill.items]
    keep_panel_scores(store, lease(store), version, scores)


def _live(store: Store) -> None:
    """Two live tasks of two members with hostile texts: one of a long conversation, one whose observation is very long."""
    add_tasks(store, HOSTILE_NAME, [7, 8], 2, "stream", "all")
    journal = StoreJournal(store, BootClock())
    for task, under in lease_tasks(store, "actor", 2, 60.0, BootClock()):
        plans = [
            EpisodePlan(
                environment=HOSTILE_NAME,
                seed=task.seed,
                group=f"task-{task.id}",
                member=member,
                purpose="live",
                sampler=VersionRef("v2"),
                temperature=1.0,
                lease=under,
                code="0ld",
            )
            for member in range(2)
        ]
        store.conn.execute("UPDATE environment SET code = '0ld' WHERE name = ?", (HOSTILE_NAME,))
        ids = journal.start(plans)
        turns = 45 if task.seed == 7 else 1
        for n in range(turns):
            long = HOSTILE + "y" * (300_000 if task.seed == 8 else 10)
            turn = Turn(
                prompt_ids=(1, 2, 3),
                action_ids=tuple(range(n + 1)),
                logprobs=tuple(-0.5 for _ in range(n + 1)),
                observation=long,
                action=HOSTILE,
                reward=0.5,
                sampler=VersionRef("v2"),
                finish="length",
                invalid=HOSTILE,
            )
            journal.turns([(id_, n, turn) for id_ in ids])
        for id_ in ids:
            ended = Ending(
                episode=id_,
                state="completed",
                stop_reason="turn_limit",
                total_reward=turns / 2,
                success=False,
                score=0.5,
                instructions=HOSTILE,
            )
            journal.finish([ended])
        finish_task(store, under)
    store.conn.execute("UPDATE environment SET code = 'n3w' WHERE name = ?", (HOSTILE_NAME,))
