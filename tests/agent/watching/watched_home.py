"""A home in which v1 was promoted by a gate, and what it takes to play live tasks in it. No model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.results import TERMS, gate_result

from perdure.memory import gates, jobs, versions
from perdure.memory.contracts.orders import GateOrder, Job
from perdure.memory.contracts.results import GateResult, Leg
from perdure.memory.environments import register
from perdure.memory.leases import BootClock
from perdure.memory.records import Decision, Ending, EpisodePlan, Lease, Pair, VersionRef
from perdure.memory.store import Store
from perdure.memory.tasks import add_tasks, finish_task, lease_tasks
from perdure.memory.trajectories.journal import StoreJournal

WORDS, SUMS = "perdure:words", "perdure:sums"


@dataclass
class WatchedHome:
    """Versions v0 and v1, and two environments. `promote_by_gate` makes v1 serve, with the scores that its gate saw."""

    store: Store
    journal: StoreJournal = field(init=False)
    _seeds: int = 1000

    def __post_init__(self) -> None:
        self.journal = StoreJournal(self.store, BootClock())
        for name in (WORDS, SUMS):
            register(self.store, name)
        versions.add_initial(self.store, "tiny", "hash-of-tiny")
        versions.add_candidate(self.store, None, "v1", "v0", "hash-of-v1", None, [WORDS], None)

    def leased_job(self, key: str, order: GateOrder, targets: Sequence[str] = ()) -> Lease:
        return self.lease(jobs.add_job(self.store, key, list(targets), order))

    def lease(self, job: int) -> Lease:
        leased = jobs.lease_job(self.store, "learner", 60.0, BootClock(), job)
        assert leased is not None
        return leased[1]

    def gate(
        self,
        candidate: str,
        scores: Mapping[str, tuple[Sequence[float], Sequence[float]]],
        *,
        under: Lease | None = None,
        verdict: Decision = "promote",
        shown: Sequence[str] = (),
        temperature: float = 1.0,
    ) -> GateResult:
        """A closed gate with these scores, of the reference and of the candidate, by environment; its gain is shown in `shown`.

        Its job is done, unless it is that of `under`.
        """
        own = under is None
        under = under or self.leased_job(f"gate-{self._seeds}", GateOrder(candidate=candidate))
        reference = versions.serving(self.store).name
        number = gates.start_gate(self.store, under, candidate, reference, "standard", TERMS)
        for name, sides in scores.items():
            pairs = [self._pair(name, draw, reference, *pair) for draw, pair in enumerate(zip(*sides, strict=True))]
            gates.add_pairs(self.store, under, number, pairs)
        legs = {name: Leg(state="passed" if name in shown else "not shown", role="trained", reference=reference) for name in scores}
        found = replace(gate_result(verdict, gate=number, candidate=candidate, trained=legs), serving=reference, temperature=temperature)
        gates.close_gate(self.store, under, found)
        if own:
            jobs.finish_job(self.store, under, found, candidate)
        return found

    def promote_by_gate(self, scores: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, temperature: float = 1.0) -> GateResult:
        found = self.gate("v1", scores, temperature=temperature)
        versions.promote(self.store, "v1", "all held, gain shown", gate=found.gate)
        return found

    def queue(self, environment: str, number: int = 1, *, person: bool = False) -> list[int]:
        seeds = [self._seed() for _ in range(number)]
        return add_tasks(self.store, environment, seeds, 2, "person" if person else "stream", None if person else "all")

    def play_next(self, scores: Sequence[float], version: str | None = None, temperature: float = 1.0, last: str | None = None) -> None:
        """Play the next task to its end with these scores; `last` plays its last member."""
        ((task, lease),) = lease_tasks(self.store, "actor", 1, 60.0, BootClock())
        name = version or versions.serving(self.store).name
        players = [name] * (len(scores) - 1) + [last or name]
        ids = self.journal.start(
            [
                EpisodePlan(
                    environment=task.environment,
                    seed=task.seed,
                    group=f"task-{task.id}",
                    member=member,
                    purpose="live",
                    sampler=VersionRef(player),
                    temperature=temperature,
                    lease=lease,
                )
                for member, player in enumerate(players)
            ]
        )
        self.journal.finish(
            [
                Ending(
                    episode=episode,
                    state="completed",
                    stop_reason="terminated",
                    total_reward=score,
                    success=score == 1,
                    score=score,
                )
                for episode, score in zip(ids, scores, strict=True)
            ]
        )
        finish_task(self.store, lease)

    def play(self, environment: str, score: float, tasks: int) -> None:
        """Play tasks in which both members have this score."""
        for _ in range(tasks):
            self.queue(environment)
            self.play_next([score, score])

    def waiting(self) -> list[Job]:
        return [job for job in jobs.unfinished_jobs(self.store) if job.kind == "gate"]

    def _seed(self) -> int:
        self._seeds += 1
        return self._seeds

    def _pair(self, environment: str, draw: int, reference: str, reference_score: float, candidate_score: float) -> Pair:
        return Pair(
            environment=environment,
            role="trained",
            draw=draw,
            seed=self._seed(),
            reference=reference,
            reference_score=reference_score,
            candidate_score=candidate_score,
            difference=candidate_score - reference_score,
        )


def mean(score: float, pairs: int = 40) -> list[float]:
    """Scores of 0 and 1 with this mean, evenly mixed."""
    return [float(int((n + 1) * score + 1e-9) > int(n * score + 1e-9)) for n in range(pairs)]
