"""Whatever a person asks for is done and written down, or refused in a short line; nothing else ends a request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.changes.conftest import configured
from tests.memory.conftest import ADD, SORT
from tests.memory.everything import CLOCK, fill

from perdure.agent.changes import environment_use, job_orders, judgements, pauses, task_queue, version_moves
from perdure.memory.changes import Who, list_changes
from perdure.memory.errors import PerdureError
from perdure.memory.store import Store, create_store
from perdure.memory.upkeep.integrity import check

BOUNDED = settings(max_examples=400, deadline=None, derandomize=True)
LOADED = configured()

HOSTILE = (
    "", " ", "\0", "\n", "\x1b]0;title\x07", "\u202eright", "\ud800", "'; DROP TABLE change; --", "<script>alert(1)</script>", "../..",
    "x" * 3000, "py:os:system", "10**9", "é" * 300,
)  # fmt: skip
texts = st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=20)


def mostly(*good: Any, odd: st.SearchStrategy[Any] = texts) -> st.SearchStrategy[Any]:
    """One of these nine times in ten."""
    return st.integers(0, 9).flatmap(lambda n: odd if n == 0 else st.sampled_from(good))


versions = mostly("v0", "v1", "v2", "v3", "v9")
environments = mostly(ADD, SORT, "perdure:nothing")
reasons = mostly("why", "because")
keys = mostly(None, None, "k1", "k2")
people = st.builds(Who, name=mostly("anna", "berta"), via=st.sampled_from(["api", "page"]))
numbers = mostly(1, 2, 3, 7, odd=st.sampled_from([0, -1, 2**31, 2**63, 10**30]) | st.integers())
reals = mostly(0.5, 1.0, odd=st.just(1e13) | st.floats())
options = st.dictionaries(mostly("updates", "rewards", "demos", "replay"), texts | numbers | reals, max_size=2)
targets = st.lists(environments, max_size=2)

Ask = Callable[..., object]
ASKS: dict[Ask, dict[str, st.SearchStrategy[Any]]] = {
    pauses.pause: {"what": st.none() | mostly("play", "learning"), "reason": reasons},
    pauses.resume: {"what": st.none() | mostly("play", "learning"), "reason": st.none() | reasons},
    version_moves.promote: {"name": versions, "reason": reasons, "expected": st.none() | versions},
    version_moves.reject: {"name": versions, "reason": reasons, "expected": st.none() | versions},
    version_moves.rollback: {"to": st.none() | versions, "reason": reasons, "expected": st.none() | versions},
    version_moves.pin: {"name": versions, "pinned": st.booleans(), "reason": st.none() | reasons},
    judgements.judge: {"rewards": st.dictionaries(numbers, reals, min_size=1, max_size=3), "source": mostly("anna")},
    environment_use.retire: {"environment": environments},
    environment_use.restore: {"environment": environments},
    job_orders.cancel_job: {"job": numbers, "reason": reasons},
    job_orders.queue_panel: {"version": st.none() | versions},
}
WITH_CONFIGURATION: dict[Ask, dict[str, st.SearchStrategy[Any]]] = {
    task_queue.add_tasks: {"environment": environments, "seed": st.none() | numbers, "count": st.integers(-1, 5) | numbers},
    job_orders.queue_learn: {
        "learner": mostly("grpo", "sft"),
        "targets": targets,
        "options": options,
        "start": versions,
    },
    job_orders.queue_gate: {"candidate": versions, "targets": targets, "profile": mostly(None, "economy")},
    job_orders.queue_probe: {"version": st.none() | versions, "targets": targets, "episodes": numbers, "temperature": reals},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with create_store(tmp_path_factory.mktemp("fuzz") / "home") as store:
        fill(store)
        yield store


@BOUNDED
@given(st.data())
def test_fuzz_a_request_is_done_and_written_down_or_refused_in_a_short_line(store: Store, data: st.DataObject) -> None:
    ask = data.draw(st.sampled_from([*ASKS, *WITH_CONFIGURATION]))
    drawn = {**ASKS, **WITH_CONFIGURATION}[ask]
    given_ = {name: data.draw(values, label=name) for name, values in drawn.items()}
    key = data.draw(keys, label="key")
    first = (store, LOADED) if ask in WITH_CONFIGURATION else (store,)
    before = list_changes(store, 1)[0]
    known = {one.key for one in list_changes(store, 10_000)}
    total = store.conn.total_changes
    who, said = data.draw(people), ""
    try:
        ask(*first, who, key=key, **given_)
    except PerdureError as error:
        said = str(error)
    if said:
        assert list_changes(store, 1) == [before]
        assert len(said) < 2000, said[:3000]
        return
    (after,) = list_changes(store, 1)
    if key is not None and key in known:
        assert after == before, "the answer of the first time"
        assert store.conn.total_changes == total, "and nothing was written"
    else:
        assert (after.id, after.key) == (before.id + 1, key)
        assert len(str(after.arguments)) < 20_000


def test_a_home_that_was_asked_for_everything_is_whole(store: Store) -> None:
    """After the test above, with which it shares the home."""
    assert [one for one in check(store, CLOCK) if one.level == "error"] == []
    done = {one.what for one in list_changes(store, 10_000)}
    assert len(done) >= 10, f"too little was done: {done}"
