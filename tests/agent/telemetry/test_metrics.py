"""The metrics of a home: their numbers, their labels, and homes that are missing, damaged or hostile."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.agent.conftest import ADD

from perdure.agent.bench.large_store import fill
from perdure.agent.config import DiskSection
from perdure.agent.telemetry.home_numbers import MOST_ENVIRONMENTS, labels
from perdure.agent.telemetry.metrics import NO_BUDGET, metrics_text
from perdure.memory.environments import register
from perdure.memory.processes import GIVEN_UP, GOES_ON, START, beat, pause, record_event
from perdure.memory.schema import MIGRATIONS
from perdure.memory.store import FILE_NAME, open_store
from perdure.memory.trajectories.episodes import counts, success_rates
from perdure.memory.versions import rollback, serving

Samples = dict[tuple[str, ...], float]


def samples(home: Path, disk: DiskSection = NO_BUDGET) -> Samples:
    """The values by name and by the values of the labels, which are in the order of their names."""
    families = text_string_to_metric_families(metrics_text(home, disk).decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_a_home_is_told_in_numbers(home: Path) -> None:
    with open_store(home) as store:
        pause(store, "play", "for the test")
        record_event(store, "death", "actor", "killed: it was ended by SIGKILL; it starts again in 1 s")
        record_event(store, "death", "learner-3", "out of memory: it ended with exit code 5; job 3 is failed")
        record_event(store, "death", "learner-4", "out of memory: it ended with exit code 5; job 4 is failed")
    found = samples(home, DiskSection(budget_gib=2))
    assert found["perdure_info", "0.1.0", str(len(MIGRATIONS)), "v1"] == 1
    assert (found["perdure_episodes_total",], found["perdure_episodes_kept",], found["perdure_turns_total",]) == (1, 1, 1)
    assert (found["perdure_live_episodes_total", ADD], found["perdure_live_successes_total", ADD]) == (1, 1)
    assert found["perdure_success_rate", ADD] == 1
    assert found["perdure_action_tokens_per_second",] == pytest.approx(2 / 60)
    assert [found["perdure_tasks", state] for state in ("queued", "running", "done", "failed")] == [1, 0, 1, 0]
    assert [found["perdure_versions", state] for state in ("candidate", "serving", "retired", "rejected")] == [1, 1, 1, 1]
    assert (found["perdure_promotions_total",], found["perdure_rollbacks_total",]) == (1, 0)
    assert (found["perdure_paused", "play"], found["perdure_paused", "learning"]) == (1, 0)
    assert found["perdure_deaths_total", "killed", "actor"] == 1
    assert found["perdure_deaths_total", "out of memory", "learner"] == 2
    assert found["perdure_disk_budget_bytes",] == 2 * 2**30
    assert found["perdure_disk_bytes", "versions"] >= 3000
    assert found["perdure_disk_bytes", "database"] >= 2**14
    assert (found["perdure_daemon_running",], found["perdure_ready",], found["perdure_state", "stopped"]) == (0, 0, 1)
    assert sum(value for key, value in found.items() if key[0] == "perdure_state") == 1


def test_a_rollback_and_what_is_given_up_are_counted_until_it_goes_on(home: Path) -> None:
    with open_store(home) as store:
        rollback(store, None, "for the test")
        record_event(store, START, "supervisor", "process 1")
        record_event(store, GIVEN_UP, "learning", "after 5 jobs")
    found = samples(home)
    assert (found["perdure_rollbacks_total",], found["perdure_given_up", "learning"]) == (1, 1)
    with open_store(home) as store:
        record_event(store, GOES_ON, "learning", "job 7 did not fail")
    assert samples(home)["perdure_given_up", "learning"] == 0


def test_only_processes_that_run_are_silent(home: Path) -> None:
    with open_store(home) as store:
        beat(store, "actor", 1, "playing")
        beat(store, "supervisor", 2, "stopped", "by a signal")
        beat(store, "learner-9", 3, "done")  # its job has ended
        beat(store, "actor-of-another\n", 4, "playing")
    silent = {key[1]: value for key, value in samples(home).items() if key[0] == "perdure_process_silent_seconds"}
    assert sorted(silent) == ["actor", "other"]
    assert 0 <= silent["actor"] < 60


def test_labels_hold_no_options_no_password_and_no_foreign_character() -> None:
    names = [ADD, f"{ADD}?key=secret", "openenv:http://me:secret@host:1/x", 'py:a"}\n\x1b[31mb', "py:" + "x" * 500, "gem:é"]
    found = labels(names)
    assert list(found.values()) == [
        ADD,
        f"{ADD}#2",
        "openenv:http://host:1/x#3",
        "py:a_____31mb#4",
        "py:" + "x" * 61 + "#5",
        "gem:_#6",
    ]


def test_there_are_at_most_fifty_environments_and_the_rest_together(home: Path) -> None:
    with open_store(home) as store:
        for n in range(80):
            register(store, f"py:<script>{n}")
        with store.write() as conn:
            sql = "INSERT INTO rate (version, environment, episodes, successes, groups, mixed_groups) VALUES ('v1', ?, 4, 1, 1, 1)"
            conn.executemany(sql, [(f"py:<script>{n}",) for n in range(80)])
    found = {key[1]: value for key, value in samples(home).items() if key[0] == "perdure_live_episodes_total"}
    assert len(found) == MOST_ENVIRONMENTS + 1
    assert found["other"] == 4 * (80 - (MOST_ENVIRONMENTS - 1))
    assert b"<script>" not in metrics_text(home)


def test_a_home_that_is_missing_or_damaged_is_told_too(home: Path, tmp_path: Path) -> None:
    assert samples(tmp_path / "nothing")["perdure_database_readable",] == 0
    (home / FILE_NAME).write_bytes(b"no database" * 2000)
    found = samples(home)
    assert (found["perdure_database_readable",], found["perdure_ready",]) == (0, 0)
    assert found["perdure_disk_bytes", "versions"] > 0


def test_the_numbers_of_a_lived_in_store_are_those_of_the_slow_queries(tmp_path: Path) -> None:
    fill(tmp_path, 500)
    found = samples(tmp_path)
    with open_store(tmp_path) as store:
        slow, rates = counts(store), success_rates(store, serving(store).name)
    assert found["perdure_episodes_total",] == found["perdure_episodes_kept",] == slow["episodes"]
    assert found["perdure_turns_total",] == slow["turns"]
    of_serving = {key[1]: value for key, value in found.items() if key[0] == "perdure_success_rate"}
    assert sorted(of_serving.values()) == pytest.approx(sorted(row.successes / row.episodes for row in rates.values()))
    assert found["perdure_verdicts_total", "reject"] == 2
    assert found["perdure_learning_reward",] == 0.5
