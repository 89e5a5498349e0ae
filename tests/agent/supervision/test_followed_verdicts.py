"""A whole daemon without a model, whose learner ends with invented verdicts: each is followed by what the planner says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.agent.stand_ins import ADD, Place

from perdure.agent.commands.status import report
from perdure.memory.contracts.orders import GateOrder, LearnOrder
from perdure.memory.jobs import get_job
from perdure.memory.processes import events
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.versions import add_initial, serving

pytestmark = pytest.mark.processes

COMPARE = "perdure:compare"
ROOT = Path(__file__).resolve().parents[3]
PLAYS = f"from tests.agent.ended_jobs import play_tasks; play_tasks(store, pulse, {{'{ADD}': [0.0, 1.0] * 4, '{COMPARE}': [1.0] * 8}})"
ENDS = "from tests.agent.ended_jobs import almost, end_with, fallen; from tests.results import gate_result; end_with(store, job, lease, {})"


@pytest.fixture(autouse=True)
def _children_find_the_tests(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]]))


def run(place: Place, first: str, then: str) -> None:
    """A daemon whose first job ends with one verdict and all others with another, until the second one is known."""

    def two_verdicts(store: Store) -> bool:
        return sum(event.kind == "verdict" for event in events(store, 1000)) >= 2

    with create_store(place.home) as store:
        add_initial(store, "tiny", "hash-of-tiny")
    place.supervise(
        place.actor(PLAYS),
        place.learner(ENDS.format(f"{first} if job.id == 1 else {then}")),
        until=two_verdicts,
        stream={"environments": [ADD, COMPARE], "tasks_per_round": 1},
        learn={"every_episodes": 32},
    )


def test_a_candidate_with_its_gain_is_gated_once_more_and_promoted(place: Place) -> None:
    run(place, f"almost('{COMPARE}')", "gate_result('promote')")
    with open_store(place.home) as store:
        first, second = get_job(store, 1), get_job(store, 2)
        assert isinstance(first.order, LearnOrder)
        assert isinstance(second.order, GateOrder)
        assert first.targets == second.targets == (ADD,)
        assert (second.order.candidate, second.order.leads_to, second.order.follows) == ("v1", "promotion", 1)
        assert second.order.why == f"v1 is gated once more: its gain was shown, and {COMPARE} could not be shown to hold"
        assert serving(store).name == "v1"
        told = [(event.kind, event.message) for event in reversed(events(store, 1000))]
    assert ("gate again", second.order.why) in told
    assert [message.partition(",")[0] for kind, message in told if kind == "verdict"] == ["v1: inconclusive", "v1: promote"]


def test_what_fell_is_repaired_from_the_candidate(place: Place) -> None:
    run(place, f"fallen('{COMPARE}')", "gate_result('promote')")
    with open_store(place.home) as store:
        order = get_job(store, 2).order
        assert isinstance(order, LearnOrder)
        assert (order.aim, order.start, order.follows) == ("repair", "v1", 1)
        assert get_job(store, 2).targets == (ADD, COMPARE)
        assert order.why == (
            f"{COMPARE} fell with v1: the next job repairs what is below its anchor with v1: {COMPARE} (40 points); "
            f"and keeps {ADD} as a target"
        )
        assert serving(store).name == "v2"
        assert "learning" in {event.kind for event in events(store, 1000)}


def test_what_comes_next_stands_in_the_status_of_a_home_without_a_daemon(place: Place) -> None:
    run(place, f"fallen('{COMPARE}')", f"fallen('{COMPARE}')")
    with open_store(place.home) as store:
        shown = report(store).as_json()
    assert shown["next"]["step"] == "learn"
    assert shown["next"]["why"].startswith(f"{COMPARE} fell with v2: the next job repairs")
