"""The documents that only pages and the API show, number by number, on a home whose life is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agent.web.api.lived_home import ADD, SCRIPT, SUB

from perdure.agent.config import DiskSection
from perdure.agent.supervision.disk import GIB
from perdure.agent.web.views.learning_curves import learning_document
from perdure.agent.web.views.now_playing import TEXT, now_document
from perdure.agent.web.views.retention_matrix import difference_interval, gate_pairs, retention_document
from perdure.agent.web.views.side_by_side import against, answers, same_seed
from perdure.agent.web.views.system_health import system_document
from perdure.learners.gate.intervals import score_interval
from perdure.memory import environments
from perdure.memory.errors import UnknownError
from perdure.memory.jobs import lease_job
from perdure.memory.leases import BootClock
from perdure.memory.store import Store, create_store, open_store


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    with open_store(home) as store:
        yield store


def test_live_play_by_environment_and_version(store: Store) -> None:
    found = learning_document(store, bins=1)
    points = {row["environment"]: row["points"] for row in found["environments"]}
    assert [(p["version"], p["tasks"], p["episodes"], p["successes"], p["success"], p["reward"]) for p in points[ADD]] == [
        ("v0", 1, 2, 1, 0.5, 0.5),
        ("v1", 1, 2, 2, 1.0, 1.0),
    ]
    assert [(p["version"], p["episodes"], p["success"]) for p in points[SUB]] == [("v0", 2, 0.0)]
    assert (points[ADD][0]["success_low"], points[ADD][0]["success_high"]) == pytest.approx(score_interval([0.5]))
    assert points[ADD][0]["reward_low"] is None
    assert [(move["kind"], move["to"]) for move in found["moves"]] == [("promote", "v1")]


def test_the_unit_of_live_play_is_the_task(store: Store) -> None:
    """Four tasks of two episodes each, with means 1, 1/2, 1/2 and 0: the intervals are those of four values."""
    with store.write() as conn:
        for task, wins in enumerate([(1, 1), (1, 0), (0, 1), (0, 0)], start=100):
            conn.execute(
                "INSERT INTO task (id, environment, seed, members, source, created_at) VALUES (?, ?, 1, 2, 'stream', 0)", (task, ADD)
            )
            for member, won in enumerate(wins):
                conn.execute(
                    'INSERT INTO episode (environment, seed, "group", member, purpose, task, attempt, version, temperature, state, '
                    "total_reward, success, score, started_at) VALUES (?, 1, ?, ?, 'live', ?, 1, 'v1', 1.0, 'completed', ?, ?, ?, 1000.0)",
                    (ADD, f"task-{task}", member, task, float(won), won, float(won)),
                )
    (found,) = learning_document(store, since=900, until=1100, bins=4)["environments"]
    (point,) = found["points"]
    assert (point["bin"], point["at"], point["tasks"], point["episodes"], point["success"]) == (2, 1025.0, 4, 8, 0.5)
    assert (point["success_low"], point["success_high"]) == pytest.approx(score_interval([1.0, 0.5, 0.5, 0.0]))
    half = 3.182446 * (1 / 6) ** 0.5 / 2  # t of 3 degrees of freedom, times the standard deviation over the root of 4
    assert (point["reward_low"], point["reward_high"]) == pytest.approx((0.5 - half, 0.5 + half))


def test_updates_of_learning_jobs_newest_first(store: Store) -> None:
    found = learning_document(store)["jobs"]
    assert [(job["job"], job["state"], [step["update"] for step in job["updates"]]) for job in found] == [
        (4, "queued", []),
        (1, "done", [1, 2]),
    ]
    assert [step["success"] for step in found[1]["updates"]] == [0.25, 0.5]
    assert [job["job"] for job in learning_document(store, environment=ADD)["jobs"]] == [1]
    assert [job["job"] for job in learning_document(store, before=4, jobs=5)["jobs"]] == [1]
    assert learning_document(store, jobs=0)["jobs"] == []


def cell(found: dict[str, Any], version: str, environment: str) -> dict[str, Any]:
    (one,) = [c for c in found["cells"] if (c["version"], c["environment"]) == (version, environment)]
    return one


def test_what_was_kept_by_version_and_environment(store: Store) -> None:
    found = retention_document(store)
    assert [version["name"] for version in found["versions"]] == ["v0", "v1"]
    assert [(row["environment"], row["anchor"]) for row in found["environments"]] == [(ADD, "v1"), (SUB, "v0")]
    old, new = cell(found, "v0", ADD), cell(found, "v1", ADD)  # seeds 2^31 and 2^31 + 1: 0.5 and 0.5 of v0, 1 and 0.5 of v1
    assert (old["score"], old["n"], new["score"], new["n"]) == (0.5, 2, 0.75, 2)
    assert (new["low"], new["high"]) == pytest.approx(score_interval([1.0, 0.5]))
    assert (old["is_anchor"], new["is_anchor"], cell(found, "v0", SUB)["is_anchor"]) == (False, True, True)
    assert [(g["gate"], g["reference"], g["pairs"], g["difference"], g["verdict"]) for g in cell(found, "v1", SUB)["gates"]] == [
        (1, "v0", 2, -0.125, "promote")
    ]
    assert cell(found, "v0", ADD)["gates"] == []


def test_a_draw_with_two_references_counts_once_for_the_candidate(store: Store) -> None:
    """Draw 0 of ADD, on which the candidate scored 1 and v0 0.5, was compared in the other role too."""
    with store.write() as conn:
        sql = "INSERT INTO pair SELECT gate, environment, 'trained', draw, seed, reference, 0.5, 1.0, 0.5, NULL FROM pair WHERE draw = 0"
        conn.execute(f"{sql} AND environment = ?", (ADD,))
    found = retention_document(store)
    assert [(cell(found, name, ADD)["n"], cell(found, name, ADD)["score"]) for name in ("v0", "v1")] == [(2, 0.5), (2, 0.75)]
    assert [(g["role"], g["pairs"]) for g in cell(found, "v1", ADD)["gates"]] == [("earlier", 2), ("trained", 1)]


def test_an_interval_of_differences_is_that_of_scores_stretched() -> None:
    low, high = score_interval([0.25, 0.75])
    assert difference_interval(0.0, 2) == pytest.approx((2 * low - 1, 2 * high - 1))


def test_scores_from_before_an_environment_changed_are_left_out(store: Store) -> None:
    for code in ("before", "after"):
        environments.note_code(store, SUB, code)
    found = retention_document(store)
    assert {c["environment"] for c in found["cells"]} == {ADD}
    assert [pair["counts"] for pair in gate_pairs(store, 1, environment=SUB)] == [False, False]


def test_the_panel_by_version_and_skill(store: Store) -> None:
    found = retention_document(store)
    assert found["skills"] == [{"skill": "sums", "measure": "choice", "limit": 0.05}]
    assert [(row["version"], row["score"], row["base"], row["change"], row["worse"]) for row in found["panel"]] == [
        ("v0", 0.625, 0.625, 0.0, False),
        ("v1", 0.375, 0.625, -0.25, True),
    ]


def test_only_the_newest_versions_and_the_first(store: Store) -> None:
    assert [v["name"] for v in retention_document(store, limit=1)["versions"]] == ["v0", "v1"]
    with store.write() as conn:
        conn.execute(
            "INSERT INTO version (name, parent, state, hash, base_model, base_hash, created_at) VALUES "
            "('v2', 'v1', 'candidate', 'h', 'tiny', 'hash-of-tiny', 0)"
        )
    assert [v["name"] for v in retention_document(store)["versions"]] == ["v0", "v1"]
    assert [v["name"] for v in retention_document(store, which="all", limit=1)["versions"]] == ["v0", "v2"]


def test_two_versions_on_the_same_seeds(store: Store) -> None:
    found = against(store, "v1", "v0")
    assert [(p["seed"], p["a_episode"], p["b_episode"], p["a_score"], p["b_score"], p["difference"]) for p in found["pairs"]] == [
        (101, 10, 8, 1.0, 1.0, 0.0),
        (100, 9, 7, 1.0, 0.0, 1.0),
    ]
    (row,) = found["environments"]
    assert (row["environment"], row["seeds"], row["a"], row["b"], row["difference"], row["a_better"], row["b_better"]) == (
        ADD,
        2,
        1.0,
        0.5,
        0.5,
        1,
        0,
    )
    assert found["next"] is None
    assert against(store, "v0", "v1")["environments"][0]["difference"] == -0.5


def test_pages_of_seeds(store: Store) -> None:
    first = against(store, "v1", "v0", limit=1)
    assert ([p["seed"] for p in first["pairs"]], first["next"]) == ([101], 10)
    second = against(store, "v1", "v0", limit=1, before=first["next"])
    assert ([p["seed"] for p in second["pairs"]], second["next"]) == ([100], None)


def test_the_first_turn_that_differs_down_to_the_token(store: Store) -> None:
    found = same_seed(store, "v0", "v1", ADD, 100)
    assert (found["a"]["id"], found["b"]["id"]) == (7, 9)
    assert found["first_difference"] == {"turn": 1, "token": 1, "what": "action"}
    assert [turn["same"] for turn in found["turns"]] == [True, False]
    assert (found["turns"][1]["a"]["action_ids"], found["turns"][1]["b"]["action_ids"]) == ([3, ord("7")], [3, ord("8")])
    assert found["turns"][1]["b"]["logprobs"] == [-0.25, -0.5]
    assert same_seed(store, "v0", "v1", ADD, 101)["first_difference"] is None


def test_an_answer_that_ended_sooner_differs_there(store: Store) -> None:
    assert answers(store, 1, 2)["first_difference"] is None
    assert answers(store, 7, 1)["first_difference"] == {"turn": 0, "token": None, "what": "observation"}
    with store.write() as conn:
        conn.execute("DELETE FROM turn WHERE episode = 9 AND n = 1")
    found = answers(store, 7, 9)
    assert found["first_difference"] == {"turn": 1, "token": None, "what": "length"}
    assert found["turns"][1]["b"] is None


def test_a_seed_that_one_of_them_never_played_is_unknown(store: Store) -> None:
    with pytest.raises(UnknownError, match="v1 has no episode of perdure:add on seed 7 "):
        same_seed(store, "v1", "v0", ADD, 7)


def test_what_happens_now(store: Store) -> None:
    found = now_document(store)
    assert (found["state"], found["serving"], found["doing"], found["job"]) == ("stopped", "v1", None, None)
    assert found["idle"].startswith("no daemon runs in this home")
    (playing,) = found["playing"]
    assert (playing["id"], playing["environment"], playing["sampler"], playing["turns_so_far"]) == (11, SUB, "v1", 1)
    (turn,) = playing["turns"]
    assert (turn["observation"], turn["observation_bytes"], turn["tokens"]) == (SCRIPT[:TEXT], len(SCRIPT.encode()), 2)
    assert [job["id"] for job in found["queue"]["jobs"]] == [4]
    assert found["queue"]["tasks"] == {"queued": 0, "running": 1, "done": 3, "failed": 0}
    assert found["events"][0]["kind"] == "death"


def test_only_the_last_turns_of_those_that_are_shown(store: Store) -> None:
    with store.write() as conn:
        conn.execute("UPDATE episode SET state = 'running' WHERE id = 9")
    found = now_document(store, episodes=1, turns=1)
    assert (found["playing_in_all"], [one["id"] for one in found["playing"]]) == (2, [11])
    (shown,) = [one for one in now_document(store, turns=1)["playing"] if one["id"] == 9]
    assert ([turn["n"] for turn in shown["turns"]], shown["turns_so_far"]) == ([1], 2)


def test_the_job_that_works_with_its_progress_and_time_left(store: Store) -> None:
    leased = lease_job(store, "learner:1", 600.0, BootClock())
    assert leased is not None
    with store.write() as conn:
        conn.execute("UPDATE job SET state = 'running' WHERE id = 4")
        for n in (1, 2):
            conn.execute(
                "INSERT INTO step SELECT 4, 1, n, diagnostics, ?, NULL FROM step WHERE job = 1 AND n = ?", (time.time() + 60 * n, n)
            )
    found = now_document(store)["job"]
    assert (found["id"], found["phase"], found["done"], found["of"], found["unit"]) == (4, "learning", 2, 3, "updates")
    assert found["share"] == pytest.approx(2 / 3)
    assert (found["seconds_left"], found["left"]) == (pytest.approx(60, abs=0.1), "about 60 s")
    assert "success 0.5" in found["line"]
    assert now_document(store)["queue"]["jobs"] == []


def test_the_disk_by_part_and_the_logs(store: Store) -> None:
    (store.home / "logs" / "actor.log").write_text("one\ntwo\nthree\n")
    (store.home / "logs" / "link.log").symlink_to("/etc/hostname")
    found = system_document(store, DiskSection(budget_gib=1.0, floor_gib=0.0), lines=2, errors=1)
    disk = found["disk"]
    assert disk["parts"]["database"] > 100_000
    assert disk["home_bytes"] == pytest.approx(sum(disk["parts"].values()))
    assert (disk["budget_bytes"], disk["learning_stops"]) == (GIB, None)
    assert disk["share"] == disk["home_bytes"] / GIB
    assert [(log["name"], log["lines"]) for log in found["logs"]] == [("actor.log", ["two", "three"])]
    assert [event["kind"] for event in found["errors"]] == ["death"]


def test_a_log_is_read_from_its_end(store: Store) -> None:
    (store.home / "logs" / "actor.log").write_bytes(b"\xff" * 50_000 + b"\nlast\xff\n")
    (log,) = system_document(store, DiskSection())["logs"]
    assert (log["lines"], log["size_bytes"]) == (["last\ufffd"], 50_007)


def test_a_full_budget_says_what_stops(store: Store) -> None:
    disk = system_document(store, DiskSection(budget_gib=1e-6))["disk"]
    assert "of its budget" in disk["learning_stops"]
    assert "of its budget" in disk["play_stops"]


def test_a_home_without_a_version_has_all_of_it(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        assert learning_document(store)["environments"] == []
        assert retention_document(store) == {"versions": [], "environments": [], "cells": [], "skills": [], "panel": []}
        assert now_document(store)["playing"] == []
        assert system_document(store, DiskSection())["logs"] == []
