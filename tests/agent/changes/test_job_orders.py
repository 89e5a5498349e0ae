"""Jobs as persons order them: queued as the commands would, and nothing from outside names code or files."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.agent.changes.conftest import ANNA, HERE, configured, rows
from tests.memory.conftest import ADD, SORT
from tests.memory.everything import CLOCK

from perdure.agent.changes.environment_use import retire
from perdure.agent.changes.job_orders import cancel_job, queue_gate, queue_learn, queue_panel, queue_probe
from perdure.learners.options import OWN, SHARED
from perdure.memory import jobs, processes, versions
from perdure.memory.changes import Who, list_changes
from perdure.memory.contracts.orders import GateOrder, LearnOrder, PanelOrder, ProbeOrder
from perdure.memory.errors import Conflict, InputError, RuntimeFailure, UnknownError
from perdure.memory.files import publish
from perdure.memory.json_value import Document
from perdure.memory.store import Store

LOADED = configured()
API = Who(name="token", via="api")


def queued(store: Store, document: Document) -> jobs.Job:
    job = jobs.get_job(store, document["id"])
    assert document == jobs.as_json(job)
    assert job.state == "queued"
    return job


def test_a_learning_job_is_queued_with_the_options_of_the_home_and_those_given(full: Store) -> None:
    loaded = configured(learn={"options": {"updates": 3, "replay": 0.25}}, gate={"profile": "economy"})
    asked = queue_learn(full, loaded, ANNA, "grpo", targets=[ADD, SORT, ADD], options={"updates": 7}, reason="a try")
    job = queued(full, asked)
    assert job.order == LearnOrder(learner="grpo", options={"seed": 0, "updates": 7, "replay": 0.25}, gate=True, profile="economy")
    assert job.targets == (ADD, SORT)
    assert rows(full) == [("anna", "learn", f"job {job.id}", "a try")]
    assert list_changes(full)[0].arguments == {
        "learner": "grpo",
        "targets": [ADD, SORT, ADD],
        "options": {"updates": 7},
        "gate": True,
        "start": None,
        "profile": None,
    }


def test_a_learning_job_may_name_its_start_its_profile_and_no_gate(full: Store) -> None:
    job = queued(full, queue_learn(full, LOADED, ANNA, "sft", targets=[ADD], gate=False, start="v3", profile="strict"))
    assert job.order == LearnOrder(learner="sft", options={"seed": 0}, gate=False, profile="strict", start="v3")


def test_without_a_target_the_planner_chooses_and_says_why(full: Store) -> None:
    said: list[str] = []
    full.db.execute("UPDATE rate SET episodes = 64, successes = 20, groups = 16, mixed_groups = 8")
    with full.write() as conn:
        conn.execute(
            "INSERT INTO rate (version, environment, episodes, successes, groups, mixed_groups) VALUES ('v1', ?, 64, 20, 16, 8)", (ADD,)
        )
    job = queued(full, queue_learn(full, LOADED, ANNA, "grpo", say=said.append))
    assert job.targets == (ADD,)
    assert len(said) == 1
    assert said[0].startswith("target ")
    assert list_changes(full)[0].arguments["targets"] == []


def test_if_nothing_is_learnable_nothing_is_queued(full: Store) -> None:
    with pytest.raises(InputError, match="no target was chosen"):
        queue_learn(full, LOADED, ANNA, "grpo")
    assert rows(full) == []


def test_a_gate_is_queued(full: Store) -> None:
    job = queued(full, queue_gate(full, LOADED, ANNA, "v3", targets=[ADD], profile="economy"))
    assert (job.order, job.targets) == (GateOrder(candidate="v3", profile="economy"), (ADD,))
    with pytest.raises(InputError, match="v1 serves: there is no gain over itself to show"):
        queue_gate(full, LOADED, ANNA, "v1", targets=[ADD])
    assert queued(full, queue_gate(full, LOADED, ANNA, "v1")).order == GateOrder(candidate="v1", profile="standard")


def test_probes_are_queued(full: Store) -> None:
    job = queued(full, queue_probe(full, LOADED, ANNA, "v0", targets=[SORT], episodes=7, temperature=0.5, samples=2))
    assert (job.order, job.targets) == (ProbeOrder(version="v0", episodes=7, temperature=0.5, samples=2), (SORT,))
    job = queued(full, queue_probe(full, LOADED, ANNA))
    assert (job.order, job.targets) == (ProbeOrder(), ())
    panel = queued(full, queue_panel(full, ANNA, "v1", asked="all"))
    assert panel.order == PanelOrder(version="v1", asked="all")
    assert [what for _, what, _, _ in rows(full)] == ["probe", "probe", "panel"]


def test_a_job_is_taken_back_once(full: Store) -> None:
    asked = cancel_job(full, ANNA, 3, reason="not needed")
    assert (asked["id"], asked["state"], asked["error"]) == (3, "failed", "cancelled: not needed")
    with pytest.raises(Conflict, match="job 3 is failed already: nothing was changed"):
        cancel_job(full, ANNA, 3, reason="not needed")
    with pytest.raises(Conflict, match="job 1 is done already"):
        cancel_job(full, ANNA, 1, reason="not needed")
    for number in (0, -1, 99, 10**30):
        with pytest.raises(InputError):
            cancel_job(full, ANNA, number, reason="not needed")
    assert rows(full) == [("anna", "job cancel", "job 3", "not needed")]
    assert [one.subject for one in processes.events(full) if one.kind == "cancelled"] == ["job 3"]


def test_a_job_that_runs_loses_its_lease(full: Store) -> None:
    leased = jobs.lease_job(full, "learner-3", 60.0, CLOCK, 3)
    assert leased is not None
    cancel_job(full, ANNA, 3, reason="not needed")
    with pytest.raises(RuntimeFailure):
        jobs.renew_job(full, leased[1], 60.0, CLOCK)


Ask = Callable[[Store, str], Document]
QUEUES: tuple[Ask, ...] = (
    lambda store, key: queue_learn(store, LOADED, API, "grpo", targets=[ADD], key=key),
    lambda store, key: queue_gate(store, LOADED, API, "v3", key=key),
    lambda store, key: queue_probe(store, LOADED, API, key=key),
    lambda store, key: queue_panel(store, API, key=key),
)


@pytest.mark.parametrize("ask", QUEUES)
def test_the_same_request_again_queues_nothing(full: Store, ask: Ask) -> None:
    first = ask(full, "k")
    before = len(jobs.list_jobs(full))
    cancel_job(full, ANNA, first["id"], reason="not needed")
    assert ask(full, "k") == first, "the answer of then, although the job was cancelled since"
    assert len(jobs.list_jobs(full)) == before
    assert ask(full, "other")["id"] == first["id"] + 1
    for other in QUEUES:
        if other is not ask:
            with pytest.raises(Conflict, match="the key 'k' stands for change 2"):
                other(full, "k")


@pytest.mark.parametrize(
    ("ask", "error", "says"),
    [
        (lambda store: queue_learn(store, LOADED, API, "grpoo", targets=[ADD]), InputError, "no learner 'grpoo'"),
        (lambda store: queue_learn(store, LOADED, API, "grpo", targets=[ADD], options={"updates": 0}), InputError, "option updates=0"),
        (lambda store: queue_learn(store, LOADED, API, "grpo", targets=[ADD], options={"update": 3}), InputError, "no option 'update'"),
        (lambda store: queue_learn(store, LOADED, API, "grpo", targets=[ADD], options={"demos": "oracle"}), InputError, "belongs to sft"),
        (lambda store: queue_learn(store, LOADED, API, "grpo", targets=[ADD], profile="lax"), InputError, "'lax' is no profile"),
        (lambda store: queue_learn(store, LOADED, API, "grpo", targets=[ADD], start="v9"), UnknownError, "no version 'v9'"),
        (
            lambda store: queue_learn(store, LOADED, API, "grpo", targets=["perdure:copy-word"]),
            UnknownError,
            "no environment 'perdure:copy",
        ),
        (lambda store: queue_learn(store, LOADED, API, "grpo", targets=[ADD] * 1001), InputError, "1001 environments are named"),
        (lambda store: queue_learn(store, LOADED, API, "trace-sft", options={"traces": "import:no"}), UnknownError, "nothing was imported"),
        (lambda store: queue_learn(store, LOADED, API, "grpo", options={"rewards": "berta"}), InputError, "this source has no rewards"),
        (lambda store: queue_gate(store, LOADED, API, "v9"), UnknownError, "no version 'v9'"),
        (lambda store: queue_gate(store, LOADED, API, "v" * 10_000_000), UnknownError, "no version"),
        (lambda store: queue_gate(store, LOADED, API, "\ud800"), InputError, "not valid Unicode"),
        (lambda store: queue_gate(store, LOADED, API, "v3", profile="p" * 10_000_000), InputError, "is no profile"),
        (lambda store: queue_probe(store, LOADED, API, "v9"), UnknownError, "no version 'v9'"),
        (lambda store: queue_probe(store, LOADED, API, episodes=0), InputError, "a probe has 1 to"),
        (lambda store: queue_probe(store, LOADED, API, episodes=10**9), InputError, "a probe has 1 to"),
        (lambda store: queue_probe(store, LOADED, API, samples=65, temperature=1.0), InputError, "a probe has 1 to"),
        (lambda store: queue_probe(store, LOADED, API, temperature=float("nan")), InputError, "the temperature of a probe is 0 to 10"),
        (lambda store: queue_probe(store, LOADED, API, temperature=float("inf")), InputError, "the temperature of a probe is 0 to 10"),
        (lambda store: queue_probe(store, LOADED, API, samples=2), InputError, "greedy answers to a seed are all the same"),
        (lambda store: queue_panel(store, API, "v9"), UnknownError, "no version 'v9'"),
        (lambda store: queue_probe(store, LOADED, API, reason=" "), InputError, "the reason is empty"),
        (lambda store: queue_probe(store, LOADED, API, key="two words"), InputError, "is no key"),
    ],
)
def test_what_cannot_be_ordered_is_refused_in_a_line_and_nothing_is_queued(
    full: Store, ask: Callable[[Store], Document], error: type[Exception], says: str
) -> None:
    before = len(jobs.list_jobs(full))
    with pytest.raises(error, match=says) as refused:
        ask(full)
    assert len(str(refused.value)) < 1000
    assert (len(jobs.list_jobs(full)), rows(full)) == (before, [])


def test_a_retired_target_is_refused(full: Store) -> None:
    retire(full, ANNA, ADD)
    for ask in (
        lambda: queue_learn(full, LOADED, ANNA, "grpo", targets=[ADD]),
        lambda: queue_gate(full, LOADED, ANNA, "v3", targets=[ADD]),
        lambda: queue_probe(full, LOADED, ANNA, targets=[ADD]),
    ):
        with pytest.raises(InputError, match="is retired"):
            ask()


def test_a_version_without_files_is_refused(full: Store) -> None:
    publish(full.home / "versions" / "v3", full.home / "versions" / "elsewhere")
    for ask in (
        lambda: queue_gate(full, LOADED, ANNA, "v3"),
        lambda: queue_probe(full, LOADED, ANNA, "v3"),
        lambda: queue_learn(full, LOADED, ANNA, "grpo", targets=[ADD], start="v3"),
        lambda: queue_panel(full, ANNA, "v3"),
    ):
        with pytest.raises(RuntimeFailure, match="the files of v3 are not in"):
            ask()
    assert versions.get_version(full, "v3").state == "candidate"


@pytest.mark.parametrize("by", [API, ANNA])
@pytest.mark.parametrize(
    ("learner", "option", "value"),
    [
        ("grpo", "rewards", "py:os:system"),
        ("grpo", "rewards", " py:os:system"),
        ("sft", "demos", "/etc/passwd"),
        ("sft", "demos", "./demos.jsonl"),
        ("sft", "demos", " oracle2"),
    ],
)
def test_what_comes_from_outside_names_neither_code_nor_files(full: Store, by: Who, learner: str, option: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{option} names a .*: only `perdure learn` on the machine itself may name"):
        queue_learn(full, LOADED, by, learner, targets=[ADD], options={option: value})
    assert rows(full) == []


def test_at_the_command_line_both_may_be_named(full: Store, tmp_path: Path) -> None:
    job = queued(full, queue_learn(full, LOADED, HERE, "grpo", targets=[ADD], options={"rewards": "py:json:loads"}))
    assert isinstance(job.order, LearnOrder)
    assert job.order.options["rewards"] == "py:json:loads"
    job = queued(full, queue_learn(full, LOADED, HERE, "sft", targets=[ADD], options={"demos": str(tmp_path / "demos.jsonl")}))
    assert isinstance(job.order, LearnOrder)
    assert job.order.options["demos"] == str(tmp_path / "demos.jsonl")


def test_what_the_operator_has_set_holds_from_outside_too(full: Store) -> None:
    loaded = configured(learn={"options": {"demos": "/srv/demos.jsonl"}})
    job = queued(full, queue_learn(full, loaded, API, "sft", targets=[ADD]))
    assert isinstance(job.order, LearnOrder)
    assert job.order.options["demos"] == "/srv/demos.jsonl"


def test_no_other_option_takes_free_text() -> None:
    """A new one that names code or a file must be refused in `agent/changes/order_checks.py` too."""
    free = {
        field.alias or name
        for group in (*SHARED, *OWN.values())
        for name, field in group.model_fields.items()
        if field.annotation is str or str in typing.get_args(field.annotation)
    }
    assert free == {"rewards", "demos", "traces"}
