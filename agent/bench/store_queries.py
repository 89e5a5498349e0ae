"""The queries that commands and daemon make again and again, for `perdure bench store` to time on a large store."""

from __future__ import annotations

from collections.abc import Callable

from perdure.agent.bench.journal_speed import MEMBERS
from perdure.agent.bench.large_store import EARLY, ENVIRONMENTS, QUEUED, RARE
from perdure.agent.commands.status import report
from perdure.agent.config import DiskSection
from perdure.agent.planning.life_from_store import read_life
from perdure.agent.planning.next_step import next_step
from perdure.agent.show.home_snapshot import observe
from perdure.agent.stream.task_drawing import refill
from perdure.agent.telemetry.home_numbers import read_numbers
from perdure.agent.watching.live_watch import AT_ONCE, LiveWatch
from perdure.agent.web.evidence.episode_reading import episode_facts, turn_texts
from perdure.agent.web.evidence.one_cell import cell_evidence
from perdure.agent.web.evidence.replayed_gate import replay_gate
from perdure.agent.web.evidence.version_list import answers_to, last_gates, page_of_versions
from perdure.agent.web.views.learning_curves import learning_document
from perdure.agent.web.views.now_playing import now_document
from perdure.agent.web.views.retention_matrix import gate_pairs, retention_document
from perdure.agent.web.views.side_by_side import against, answers
from perdure.agent.web.views.system_health import system_document
from perdure.memory.gates import get_gate
from perdure.memory.jobs import unfinished_jobs
from perdure.memory.leases import TTL_S, BootClock
from perdure.memory.stages import Stage, StageShare, progress
from perdure.memory.store import Store
from perdure.memory.tasks import lease_tasks, list_tasks, next_tasks, release_task
from perdure.memory.trajectories.episodes import (
    completed_members,
    get_episode,
    latest_episode_id,
    list_episodes,
    live_episodes,
)
from perdure.memory.trajectories.journal import abort_orphans
from perdure.memory.versions import serving
from perdure.memory.watches import finished_before, played_tasks, tasks_done

STAGE = Stage(name="all", environments=tuple(StageShare(name=name) for name in ENVIRONMENTS), members=MEMBERS)

Question = Callable[[Store], object]

COMMANDS: dict[str, Question] = {
    "perdure status": report,
    "perdure episode list": list_episodes,
    "perdure episode list --env, a common one": lambda store: list_episodes(store, ENVIRONMENTS[0]),
    "perdure episode list --env, a rare one": lambda store: list_episodes(store, RARE),
    "perdure episode list --version, an early one": lambda store: list_episodes(store, version=EARLY),
    "perdure episode list --env --version": lambda store: list_episodes(store, RARE, serving(store).name),
    "perdure episode show": lambda store: get_episode(store, latest_episode_id(store) or 0),
    "perdure task list": list_tasks,
    "perdure run, the live view": observe,
}

DAEMON: dict[str, Question] = {
    "jobs that wait": unfinished_jobs,
    "is it time to learn?": lambda store: live_episodes(store, serving(store).name, 0.0),
    "what to learn": lambda store: _choose(store),
    "the stream, full": lambda store: _refill(store),
    "the stream, to be filled": progress,
    "leasing eight tasks": lambda store: _lease(store),
    "members that are completed": lambda store: completed_members(store, [f"task-{n}" for n in range(1, 9)]),
    "the watch": lambda store: _watch(store),
    "orphans": abort_orphans,
    "metrics": read_numbers,
}

PAGES: dict[str, Question] = {
    "now": now_document,
    "learning, the whole life": learning_document,
    "learning, one environment": lambda store: learning_document(store, environment=RARE),
    "retention": retention_document,
    "retention, all versions": lambda store: retention_document(store, which="all"),
    "the pairs of a gate": lambda store: gate_pairs(store, 1),
    "two versions side by side": lambda store: against(store, serving(store).name, EARLY),
    "two answers": lambda store: answers(store, 1, 2),
    "one version in one environment": lambda store: cell_evidence(store, serving(store).name, ENVIRONMENTS[0]),
    "answers to a seed": lambda store: answers_to(store, serving(store).name, ENVIRONMENTS[0], 1),
    "a gate once more": lambda store: replay_gate(store, get_gate(store, 1)),
    "versions": lambda store: last_gates(store, [one.name for one in page_of_versions(store, 100, None)[0]]),
    "an episode": lambda store: episode_facts(store, 1),
    "the turns of an episode": lambda store: turn_texts(store, 1, 0, 20, 1500),
    "system": lambda store: system_document(store, DiskSection()),
    "episodes of an environment and an outcome": lambda store: list_episodes(store, ENVIRONMENTS[0], outcome="success"),
    "what is played next": lambda store: next_tasks(store, 5),
}
"""What pages and the API ask for, beside the documents of the commands."""


def _choose(store: Store) -> object:
    life = read_life(store, ENVIRONMENTS)
    return None if life is None else next_step(life)


def _refill(store: Store) -> object:
    return refill(store, [STAGE], per_environment=QUEUED // len(ENVIRONMENTS), root=0, begin=lambda stage: None)


def _lease(store: Store) -> None:
    """Lease tasks and release them, in one transaction."""
    with store.write():
        for _, lease in lease_tasks(store, "bench", 8, TTL_S, BootClock()):
            release_task(store, lease)


def _watch(store: Store) -> object:
    """A look of the watch that begins, and the tasks of a look that has much to catch up on."""
    LiveWatch(store, temperature=0.0).tick()
    return played_tasks(store, tasks_done(store, 0, finished_before(store), AT_ONCE))
