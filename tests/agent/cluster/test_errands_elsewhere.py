"""Errands of a job that a player elsewhere plays, through the journal: scores come back, and they come before live tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.cluster.head_place import ADD, WALK, Head, head_in, journal_here, player_here, queue
from tests.agent.cluster.scripted_player import scripted_parts

from perdure.agent.config import Config
from perdure.memory.contracts.orders import ProbeOrder
from perdure.memory.errands.errand_queue import batch_progress, queue_errands, scores_of_batch
from perdure.memory.errands.errand_records import ErrandTerms
from perdure.memory.jobs import add_job, lease_job
from perdure.memory.leases import BootClock
from perdure.memory.store import open_store
from perdure.memory.trajectories.episodes import get_episode, list_episodes
from perdure.memory.upkeep.integrity import check

SETTINGS = Config.model_validate({"model": "tiny", "play": {"width": 4, "members": 4}, "sandbox": {"trusted": ["perdure:", WALK]}})
TERMS = ErrandTerms(version="v0", serving="v0", purpose="probe", temperature=1.0, samples=2)


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    with head_in(tmp_path) as head, journal_here(head):
        yield head


def test_errands_are_played_before_live_tasks_and_their_scores_come_back_in_order(head: Head) -> None:
    queue(head, WALK, 2)
    draws = [(WALK, 2**31 + n) for n in range(3)] + [(ADD, 2**31 + 9)]
    with open_store(head.home) as store:
        add_job(store, "probe", [WALK, ADD], ProbeOrder(version="v0", episodes=4))
        leased = lease_job(store, "learner-1:1", 600.0, BootClock())
        assert leased is not None
        job = leased[1]
        batch = queue_errands(store, job, TERMS, draws)
        with player_here(head, SETTINGS, scripted_parts()):
            head.wait("the errands", lambda: batch_progress(store, job, batch).complete)
            head.wait("the live tasks", lambda: head.tasks("done") == 2)
        scores = scores_of_batch(store, job, batch)
        assert [len(one) for one in scores] == [2] * 4
        assert scores[:3] == [(1.0, 1.0)] * 3, "an episode that walks to the end succeeds"
        played = [get_episode(store, entry.id) for entry in list_episodes(store, limit=99)]
        probes = [one for one in played if one.purpose == "probe"]
        assert sorted((one.environment, one.seed) for one in probes) == sorted(draws * 2)
        assert {(one.job, one.task) for one in probes} == {(job.subject, None)}
        assert max(one.id for one in probes) < min(one.id for one in played if one.purpose == "live")
        assert [finding for finding in check(store, BootClock()) if finding.level == "error"] == []
