"""`perdure report`: a home's own life, read from its store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.conftest import ADD, Call
from tests.agent.ended_jobs import end_with, lease_next
from tests.results import SELECTION, gate_result, update

from perdure.agent.metrics.home_rows import home_table, served_stages
from perdure.agent.metrics.measured_run import measured_runs
from perdure.memory import environments
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.contracts.results import Drift
from perdure.memory.jobs import add_job, add_step
from perdure.memory.store import create_store, open_store
from perdure.memory.versions import rollback

OTHER = "perdure:sort"
KL_NEW = 0.25


@pytest.fixture
def lived(home: Path) -> Path:
    """v1 serves by a person's word; then v4 is refused, and v5, which is .25 better at ADD and .5 worse at another, promoted over v1."""
    with open_store(home) as store:
        environments.register(store, OTHER)
        for key, result, differences in [
            ("one", gate_result("reject"), {}),
            ("two", replace(gate_result("promote"), temperature=1.0), {ADD: [0.0, 0.5] * 8, OTHER: [-0.5] * 8}),
        ]:
            add_job(store, key, [ADD], LearnOrder(learner="grpo"))
            job, lease = lease_next(store)
            add_step(store, lease, replace(update(SELECTION.step), drift=Drift(kl_base_new=KL_NEW, kl_base_old=0.01)))
            end_with(store, job, lease, result, differences)
    return home


def test_the_report_of_a_life(perdure: Call, lived: Path) -> None:
    """The pairs are with v0, which scored .5 everywhere; the candidates scored .5 plus the difference."""
    document = json.loads(perdure("report", "--json").out)
    assert document["serving"] == "v5"
    assert [(stage["version"], stage["kind"], stage["targets"]) for stage in document["stages"]] == [
        ("v0", "initial", []),
        ("v1", "promote", [ADD]),
        ("v5", "promote", [ADD]),
    ]
    assert document["scores"][ADD]["2"] == {"score": 0.75, "n": 16}
    assert document["scores"][OTHER] == {"0": {"score": 0.5, "n": 8}, "2": {"score": 0.0, "n": 8}}
    metrics = document["metrics"]
    assert (metrics["gain"]["value"], metrics["drop"]["value"]) == (0.25, 0.5)
    assert metrics["gain"]["low"] < 0.25 < metrics["gain"]["high"]
    assert metrics["updates"]["value"] == 2, "the refused candidate was trained too"
    assert (metrics["tokens"]["value"], metrics["seconds"]["value"]) == (36, 4.0)
    assert (metrics["kl_new"]["value"], metrics["kl_old"]["value"]) == (KL_NEW, 0.01)
    assert metrics["acc"]["source"].startswith("Lopez-Paz")
    jobs = document["jobs"]
    assert [(job["verdict"], job["start"], job["best"], job["area"]) for job in jobs] == [
        (verdict, 0.3125, 0.75, pytest.approx((3 * (0.3125 + 0.75) / 2 + 3 * (0.75 + 0.0625) / 2) / 6)) for verdict in ("reject", "promote")
    ]
    assert document["life"]["promotions"] == 1


def test_the_report_as_tables(perdure: Call, lived: Path) -> None:
    found = perdure("report")
    assert found.code == 0
    for line in ("v5 serves in", "0.75 (16)*", "drop", "Learning jobs", "This is one life"):
        assert line in found.out


def test_after_a_rollback_the_old_version_is_a_stage_again(perdure: Call, lived: Path) -> None:
    with open_store(lived) as store:
        rollback(store, "v0", "for the test")
        stages = served_stages(store)
        (run,) = measured_runs(home_table(store, stages))
    assert [(stage.version, stage.targets) for stage in stages] == [("v0", ()), ("v1", (ADD,)), ("v5", (ADD,)), ("v0", ())]
    assert run.main.matrix.at(3, OTHER) == run.main.matrix.at(0, OTHER) == 0.5
    assert "v0 (rollback)" in perdure("report").out


def test_what_was_rolled_back_is_neither_learned_nor_forgotten(perdure: Call, lived: Path) -> None:
    """v5 raised ADD from .5 to .75. Back at v1 that is no loss of .25 but what was asked for; its KL is not that of v5."""
    with open_store(lived) as store:
        rollback(store, "v0", "for the test")
    document = json.loads(perdure("report", "--json").out)
    assert [stage["rolled_back"] for stage in document["stages"]] == [False, True, True, False]
    metrics = document["metrics"]
    assert {"gain", "acc", "bwt", "forgetting_first"}.isdisjoint(metrics)
    assert metrics["drop"]["value"] == 0.0
    assert (metrics["kl_new"]["value"], metrics["kl_old"]["value"]) == (0.0, 0.0)
    assert document["notes"][0].startswith("Rolled back: v1, v5.")


def test_the_divergence_after_a_rollback_is_that_of_the_version_that_serves(perdure: Call, lived: Path) -> None:
    with open_store(lived) as store:
        rollback(store, "v1", "for the test")
        assert [stage.undone for stage in served_stages(store)] == [False, False, True, False]
    assert "kl_new" not in json.loads(perdure("report", "--json").out)["metrics"], "v1 was made without a learning job"
    with open_store(lived) as store:
        rollback(store, "v5", "for the test, forward again")
        assert [stage.undone for stage in served_stages(store)] == [False, False, False, True, False]
    metrics = json.loads(perdure("report", "--json").out)["metrics"]
    assert (metrics["kl_new"]["value"], metrics["gain"]["value"]) == (KL_NEW, 0.25)


def test_the_panel_is_part_of_the_report(perdure: Call, lived: Path) -> None:
    """Of two items one was lost; the mean fell by .35. An item that was edited since is another, and has no score of the base."""
    scored = [("v0", "1", 0.9, "a"), ("v0", "2", 0.8, "a"), ("v0", "3", 0.7, "old"), ("v5", "1", 0.9, "a"), ("v5", "2", 0.1, "a")]
    with open_store(lived) as store, store.write() as db:
        for version, item, score, content in [*scored, ("v1", "1", 0.8, "a"), ("v1", "2", 0.8, "a"), ("v5", "3", 0.1, "new")]:
            row = (version, "grammar", item, "choice", score, content, "scripted")
            db.execute(
                "INSERT INTO panel_score (version, skill, item, measure, score, content, numerics) VALUES (?, ?, ?, ?, ?, ?, ?)", row
            )
    row = json.loads(perdure("report", "--json").out)["panel"]["grammar"]["choice"]
    assert [row[key] for key in ("base", "before", "now")] == pytest.approx([0.85, 0.8, 0.5])
    assert [row[key] for key in ("n", "lost", "gained", "lost_against")] == [2, 1, 0, ["before", "base"]]
    assert row["lost_beyond_guessing"] == 0.5  # nothing was wrong before, so that guessing explains none of it
    assert "FORGOTTEN" in perdure("report").out


def test_a_home_without_scores_says_so(perdure: Call, home: Path) -> None:
    document = json.loads(perdure("report", "--json").out)
    assert document["scores"] == {}
    assert "gain" not in document["metrics"]
    assert "nothing was scored yet" in perdure("report").out


def test_a_home_that_serves_nothing_is_refused_in_one_line(perdure: Call, tmp_path: Path) -> None:
    create_store(tmp_path / ".perdure").close()
    found = perdure("report")
    assert (found.code, found.out) == (2, "")
    assert len(found.err.splitlines()) == 1


def test_without_a_home_it_says_what_to_do(perdure: Call) -> None:
    found = perdure("report", "--json")
    assert found.code == 2
    assert "perdure run" in found.err
