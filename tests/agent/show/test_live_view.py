from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.results import TERMS, gate_result, learn_result, update

from perdure.agent.show.gate_table import COLUMNS, gate_rows
from perdure.agent.show.home_snapshot import HomeSnapshot, changes, observe
from perdure.agent.show.live_view import render, spark, watching
from perdure.agent.show.summary import LiveCount, Mark, Summary, about, mark, next_commands, show, summarise
from perdure.agent.supervision.limits import Outcome
from perdure.memory.contracts.orders import GateOrder, Job, JobState, LearnOrder, ProbeOrder
from perdure.memory.contracts.results import Leg, ProbeResult, ProbeScore
from perdure.memory.environments import register
from perdure.memory.gates import add_pairs, start_gate
from perdure.memory.jobs import add_job, add_step, fail_job, finish_job, lease_job, release_job, set_job_state
from perdure.memory.leases import BootClock
from perdure.memory.processes import Process, beat, record_event
from perdure.memory.records import Decision, Pair
from perdure.memory.store import Store, create_store
from perdure.memory.trajectories.episodes import RateRow
from perdure.memory.versions import add_candidate, add_initial

ADD = "perdure:add"
CLOCK = BootClock()
SORTED = Leg(
    state="passed",
    role="earlier",
    reference="v0",
    n=12,
    candidate_score=0.75,
    reference_score=0.7,
    mean_difference=0.05,
    wealth=21.8,
    need=20.0,
)
GAINED = replace(SORTED, role="trained", n=16, candidate_score=0.9, reference_score=0.4, mean_difference=0.5, wealth=41.0)
GATE = gate_result(
    environments={"perdure:sort": SORTED, "perdure:dark": Leg(state="vacuous")},
    pooled=Leg(state="passed", n=24, mean_difference=0.02, wealth=33.0, need=20.0),
    trained={ADD: GAINED},
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        register(store, ADD)
        yield store


def drawn(snapshot: HomeSnapshot) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(render(snapshot))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def job(state: JobState = "done", verdict: Decision = "promote", *, error: str | None = None) -> Job:
    return Job(
        id=3,
        order=LearnOrder(learner="grpo"),
        targets=("perdure:add?a=1&b=2",),
        state=state,
        attempt=1,
        candidate="v1" if state == "done" else None,
        result=learn_result(replace(GATE, verdict=verdict)) if state == "done" else None,
        error=error,
        created=1.0,
    )


def test_home_that_has_only_begun_is_shown(store: Store) -> None:
    assert "starting" in drawn(observe(store))
    beat(store, "actor", 5, "starting", "fetching the default model")
    assert "actor: starting, fetching the default model" in drawn(observe(store))


def test_job_its_curve_and_its_gate_are_seen(store: Store) -> None:
    add_initial(store, "tiny", "hash-of-tiny")
    add_job(store, "a", [ADD], LearnOrder(learner="grpo"))
    leased = lease_job(store, "learner-1:5", 60, CLOCK)
    assert leased is not None
    lease = leased[1]
    for n, success in enumerate((0.1, 0.5, 0.9), start=1):
        add_step(store, lease, update(n, success=success))
    first = observe(store)
    assert "▂▅▇" in drawn(first)
    assert "success 0.9" in drawn(first)
    (store.home / "versions" / "v1").mkdir()
    add_candidate(store, lease, "v1", "v0", "hash-of-v1", "versions/v1", [ADD], lease.subject)
    set_job_state(store, lease, "gating")
    gate = start_gate(store, lease, "v1", "v0", "economy", TERMS)
    pairs = [
        Pair(environment=ADD, role="trained", draw=0, seed=5, reference="v0", reference_score=0.0, candidate_score=1.0, difference=1.0),
        Pair(environment=ADD, role="trained", draw=1, seed=6, reference="v0", reference_score=1.0, candidate_score=None, difference=-1.0),
        Pair(environment=ADD, role="trained", draw=2, seed=7, reference="v0", reference_score=None, candidate_score=None, difference=None),
    ]
    add_pairs(store, lease, gate, pairs)
    then = observe(store)
    line = next(line for line in drawn(then).splitlines() if "trained" in line)
    assert line.split() == [ADD, "trained", "2", "0.50", "0.50", "+0.00"]
    assert changes(first, then) == ["gate 1 of v1: 3 pairs played"]


def test_updates_of_an_attempt_that_goes_on_or_begins_anew_are_told_once(store: Store) -> None:
    add_initial(store, "tiny", "hash-of-tiny")
    job_id = add_job(store, "a", [ADD], LearnOrder(learner="sft"))
    snapshots = [observe(store, job_id)]
    told = []
    for attempt, updates in ((1, (1, 2, 3)), (2, (3, 4)), (3, (1,))):
        leased = lease_job(store, "learner-1:5", 60, CLOCK)
        assert leased is not None
        for n in updates:
            add_step(store, leased[1], update(n, nll=2.0 / n))
        release_job(store, leased[1])
        assert leased[1].attempt == attempt
        snapshots.append(observe(store, job_id))
        told.append([line for line in changes(snapshots[-2], snapshots[-1]) if "update" in line])
    assert [[int(line.split()[3].rstrip(":")) for line in lines] for lines in told] == [[1, 2, 3], [3, 4], [1]]
    assert [line for lines in told for line in lines] == [
        f"job 1, update {n}: nll {nll}, tokens per s 1234, seconds 1"
        for n, nll in ((1, "2"), (2, "1"), (3, "0.667"), (3, "0.667"), (4, "0.5"), (1, "2"))
    ]
    assert " nll █" in drawn(snapshots[-1]), "a curve without success is one of what is imitated"


def test_every_change_is_one_line_and_nothing_is_said_twice(store: Store) -> None:
    before = observe(store)
    add_initial(store, "tiny", "hash-of-tiny")
    record_event(store, "restart", "actor", "it was ended by SIGKILL;\nit starts again in 0.5 s")
    beat(store, "actor", 5, "paused", "job 1 (learn) has the CPU")
    now = observe(store)
    assert changes(before, now) == [
        "v0 serves",
        "actor: paused, job 1 (learn) has the CPU",
        "restart (actor): it was ended by SIGKILL; it starts again in 0.5 s",
    ]
    assert changes(now, observe(store)) == []
    beat(store, "actor", 6, "paused", "job 1 (learn) has the CPU")
    assert changes(now, observe(store)) == ["actor: paused, job 1 (learn) has the CPU"], "another process says it"


def test_success_rates_are_told_now_and_then() -> None:
    before = HomeSnapshot(serving="v0", episodes=63)
    now = replace(before, episodes=65, rates={ADD: RateRow(episodes=64, successes=48, groups=8, mixed_groups=3)})
    assert changes(before, now) == [f"65 episodes; success with v0: {ADD} 75%"]
    assert changes(now, replace(now, episodes=70)) == []


def test_text_from_outside_cannot_move_the_cursor() -> None:
    hostile = Process(name="actor", pid=1, state="idle", detail="\x1b[2J[bold]x[/bold]", beat=0.0, started=0.0)
    snapshot = HomeSnapshot(serving="v0", environments=("py:x:\x1b[2JY",), processes={"actor": hostile})
    assert "\x1b[2J" not in drawn(snapshot)
    assert "[bold]x[/bold]" in drawn(snapshot)
    assert all("\x1b" not in line for line in changes(HomeSnapshot(serving="v0"), snapshot))


def test_curve_stays_within_its_bars() -> None:
    assert spark([-1.0, 0.0, 0.5, 1.0, 7.0]) == "▁▁▅██"
    assert spark([]) == ""


def test_watching_tells_changes_without_a_terminal(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    record_event(store, "start", "supervisor", "long ago")
    beat(store, "actor", 5, "stopped", "in another run")
    with watching(store.home):
        deadline = time.monotonic() + 10
        told = ""
        while "v0 serves" not in told and time.monotonic() < deadline:
            time.sleep(0.2)
            add_initial(store, "tiny", "hash-of-tiny")
            told += capsys.readouterr().err
    assert "v0 serves" in told
    assert "another run" not in told
    assert capsys.readouterr().out == ""


def test_summary_holds_what_belongs_to_the_run(store: Store) -> None:
    add_initial(store, "tiny", "hash-of-tiny")
    for key in ("before", "waiting"):
        add_job(store, key, [ADD], LearnOrder(learner="grpo"))
    leased = lease_job(store, "learner-1:5", 60, CLOCK)
    assert leased is not None
    finish_job(store, leased[1], learn_result(None), None)
    began = mark(store)
    assert began == Mark(episode=0, job=1)
    leased = lease_job(store, "learner-2:5", 60, CLOCK)
    assert leased is not None
    fail_job(store, leased[1], "out of memory")
    summary = summarise(store, began)
    assert [(found.id, found.error) for found in summary.jobs] == [(2, "out of memory")]
    assert summary.serving == "v0"


def test_gate_is_a_table_of_all_its_tests() -> None:
    rows = gate_rows(GATE)
    assert len(rows[0]) == len(COLUMNS)
    assert rows[0] == ["perdure:sort", "earlier", 12, "0.75", "0.70", "+0.05", "21.80 (needs 20)", "passed", "v0"]
    assert rows[1] == ["perdure:dark", "earlier", 0, None, None, None, None, "vacuous", None]
    assert rows[2] == ["all earlier ones", "pooled", 24, None, None, "+0.02", "33.00 (needs 20)", "passed", None]
    assert rows[3] == [ADD, "gain", 16, "0.90", "0.40", "+0.50", "41.00 (needs 20)", "passed", "v0"]


def test_jobs_are_told_in_words() -> None:
    assert about(job()) == [
        "Job 3: grpo on perdure:add?a=1&b=2 made v1: promote, all held",
        "  The candidate is step 3 of 6: the targets scored 0.75 there, 0.31 at the start and 0.06 at step 6. "
        "The job ended early: the targets collapsed: score 0.75 at step 3, 0.06 at step 6.",
        "  perdure:add: 40% -> 90% of 16 held-out tasks (v0 -> v1)",
    ]
    assert about(job("failed", error="its process was ended by SIGKILL")) == [
        "Job 3: grpo on perdure:add?a=1&b=2 failed: its process was ended by SIGKILL"
    ]
    gate = replace(job(), order=GateOrder(candidate="v1"), result=GATE)
    assert about(gate)[0] == "Job 3: gate on perdure:add?a=1&b=2 of v1: promote, all held"
    assert gate.gate == GATE
    scores = {ADD: ProbeScore(score=0.5, low=0.4, high=0.6, episodes=50, failed=0)}
    probe = replace(job(), order=ProbeOrder(), targets=(), result=ProbeResult(version="v1", environments=scores))
    assert about(probe) == [f"Job 3: probe of v1: {ADD} 0.50"]
    assert about(job("queued")) == ["Job 3: grpo on perdure:add?a=1&b=2 is queued; the next run resumes it"]


def test_three_next_commands_follow_from_what_happened() -> None:
    def first(*jobs: Job, serving: str = "v1") -> str:
        found = next_commands(Summary(played=(), jobs=jobs, serving=serving))
        assert len(found) == 3
        return found[0][0]

    assert first(job()) == "perdure probe"
    assert first(job(verdict="reject"), serving="v0") == "perdure version show v1"
    assert first(job("failed")) == "perdure status"
    assert first() == "perdure episode show LAST"
    commands = [command for command, _ in next_commands(Summary(played=(), jobs=(job(verdict="reject"),), serving="v0"))]
    assert "perdure learn grpo --target 'perdure:add?a=1&b=2'" in commands


def test_summary_prints_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    played = LiveCount(environment=ADD, episodes=0, successes=0, not_counted=8)
    show(Summary(played=(played,), jobs=(job(), job("failed", error="no")), serving="v1"), Outcome(code=0, reason="v1 was promoted"))
    text = capsys.readouterr().out
    for expected in (
        "v1 was promoted",
        "40% -> 90%",
        "21.80 (needs 20)",
        "vacuous",
        "40 episodes by the candidate",
        "failed: no",
        "v1 serves",
    ):
        assert expected in text
