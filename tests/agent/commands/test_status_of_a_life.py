"""What `perdure status` says of a home's life: what comes next and why, the anchors, and the errors to expect."""

from __future__ import annotations

import json
from pathlib import Path

from tests.agent.conftest import ADD, Call
from tests.agent.ended_jobs import almost, end_with, lease_next

from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.jobs import add_job
from perdure.memory.stages import Stage, StageShare, set_stages
from perdure.memory.store import open_store


def test_status_tells_what_comes_next_and_where_the_anchors_stand(perdure: Call, home: Path) -> None:
    with open_store(home) as store:
        set_stages(store, [Stage(name="all", environments=(StageShare(name=ADD),), members=1)])
        found = json.loads(perdure("status").out)
        assert found["next"] == {
            "step": "nothing",
            "why": f"nothing is learnable yet: {ADD} has only 1 episodes and needs 16",
            "unfollowed": None,
            "targets": [],
        }
        assert found["anchors"] == {ADD: {"version": "v1", "score": None, "difference": None, "pairs": 0}}
        assert (found["life"]["gates"], found["life"]["expected_false"], found["life"]["drift"]) == (0, 0, 0.0)
        add_job(store, "one", [ADD], LearnOrder(learner="grpo", why="it promises most"))
        job, lease = lease_next(store)
        found = json.loads(perdure("status").out)
        assert found["next"] == {"step": "learn", "why": "it promises most", "unfollowed": None, "targets": [ADD], "job": job.id}
        end_with(store, job, lease, almost(ADD), {ADD: [0.0, 0.0]})
    found = json.loads(perdure("status").out)
    assert (found["next"]["step"], found["next"]["candidate"]) == ("gate", "v4")
    assert (found["life"]["gates"], found["life"]["candidates"], found["life"]["expected_false"]) == (1, 1, 0.05)
    assert found["anchors"][ADD] == {"version": "v1", "score": None, "difference": None, "pairs": 0}, "no pair was with v1"
    with open_store(home) as store, store.write() as db:
        db.execute(
            "INSERT INTO dev_score (version, environment, temperature, seeds, scored, total) VALUES ('v1', ?, 0.0, 16, 16, 12.0)", (ADD,)
        )
    assert json.loads(perdure("status").out)["anchors"][ADD]["score"] == 0.75
