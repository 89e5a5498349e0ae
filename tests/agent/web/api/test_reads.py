"""What the API tells is what the commands tell, and what has happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.agent.conftest import Call
from tests.agent.studies.report.made_studies import keep_study, stream_cells
from tests.agent.web.api.asking import Asker, asker
from tests.agent.web.api.lived_home import ADD, SUB
from tests.agent.web.evidence.judged_home import make_home

from perdure.agent.show.check_notes import note_check
from perdure.agent.show.home_documents import environment_document
from perdure.envs.check.rules import EnvFinding
from perdure.memory.environments import register
from perdure.memory.store import create_store, open_store


@pytest.fixture
def judged_ask(tmp_path: Path) -> Asker:
    """Asks a home whose versions were judged."""
    make_home(tmp_path / "judged" / "home")
    (tmp_path / "judged" / "perdure.toml").write_text("model = 'tiny'\n")
    return asker(tmp_path / "judged" / "home")


SAME = {
    "/api/v1/tasks?limit=20": ("task", "list"),
    "/api/v1/episodes?limit=20": ("episode", "list"),
    "/api/v1/episodes?limit=2&environment=perdure%3Aadd&version=v0": ("episode", "list", "--limit", "2", "--env", ADD, "--version", "v0"),
    "/api/v1/episodes/7": ("episode", "show", "7"),
    "/api/v1/versions": ("version", "list"),
    "/api/v1/versions/v1": ("version", "show", "v1"),
    "/api/v1/jobs?limit=20": ("job", "list"),
    "/api/v1/jobs/1": ("job", "show", "1"),
    "/api/v1/studies": ("study", "list"),
    "/api/v1/changes": ("change", "list"),
    "/api/v1/report": ("report",),
}


@pytest.mark.parametrize("path", SAME)
def test_the_api_tells_what_the_command_prints(ask: Asker, home: Path, perdure: Call, path: str) -> None:
    told = ask.get(path)
    at = () if SAME[path][0] == "study" else ("--home", str(home))
    assert told.status == 200
    assert told.json() == json.loads(perdure(*SAME[path], *at, "--json").out)


def test_the_settings_in_force_are_those_of_the_command(ask: Asker, home: Path, perdure: Call) -> None:
    printed = json.loads(perdure("config", "show", "--config", str(home.parent / "perdure.toml"), "--json").out)
    told = ask.get("/api/v1/config").json()
    assert told == printed
    assert {one["key"]: one["origin"] for one in told}["model"] != "default"


@pytest.mark.parametrize(
    ("path", "name", "cursor"),
    [
        ("/api/v1/versions", "name", "before"),
        ("/api/v1/environments", "name", "after"),
        ("/api/v1/studies", "name", "after"),
        ("/api/v1/episodes", "id", "before"),
        ("/api/v1/jobs", "id", "before"),
    ],
)
def test_a_list_is_the_same_page_by_page(ask: Asker, path: str, name: str, cursor: str) -> None:
    whole = ask.get(path, limit=1000).json()
    assert len(whole) > 1
    found: list[Any] = []
    while page := ask.get(path, limit=1, **({cursor: found[-1][name]} if found else {})).json():
        found += page
    assert found == whole
    assert ask.get(path, limit=1001).status == 422


def test_an_episode_is_read_from_a_turn_on(ask: Asker) -> None:
    whole = ask.get("/api/v1/episodes/1").json()
    assert ask.get("/api/v1/episodes/1", first=0, limit=1).json() == {**whole, "turns": whole["turns"][:1]}
    assert ask.get("/api/v1/episodes/1", first=10**6).json()["turns"] == []
    assert ask.get("/api/v1/episodes/1", limit=10**9).status == 422
    assert [
        ask.get(path).status for path in ("/api/v1/versions?before=v99", "/api/v1/environments?after=none", "/api/v1/studies?after=none")
    ] == [404] * 3


def test_the_wealth_of_a_gate_is_told_round_by_round(judged_ask: Asker) -> None:
    [gate] = judged_ask.get("/api/v1/versions/v2").json()["gates"][-1:]
    told = judged_ask.get(f"/api/v1/gates/{gate['gate']}/wealth").json()
    assert told["rounds"] >= told["least_rounds"] > 0
    assert {one["test"] for one in told["tests"]} >= {"hold", "gain"}
    assert all(one["log_wealth"][0] == 0.0 and len(one["log_wealth"]) <= told["rounds"] + 1 for one in told["tests"])
    assert judged_ask.get("/api/v1/gates/99/wealth").status == 404


def test_a_study_is_told_with_its_metrics(home: Path, tmp_path: Path) -> None:
    keep_study(tmp_path / "studies" / "grid", stream_cells({"naive": 0.5, "replay": 0.1}), failed="out of memory")
    (tmp_path / "perdure.toml").write_text(f"model = 'tiny'\nweb.studies = '{tmp_path / 'studies'}'\n")
    ask = asker(home)
    told = ask.get("/api/v1/studies/grid").json()
    assert (told["cells"], told["arms"], told["runs"]) == ({"done": 6, "failed": 1, "left": 0}, ["naive", "replay"], 6)
    [by_arm] = told["streams"].values()
    assert by_arm["naive"].keys() == by_arm["replay"].keys()
    assert all(one["n"] == 3 for one in by_arm["naive"].values() if one["of"] == "seeds")
    assert ask.get("/api/v1/studies/none").status == 404
    assert ask.get("/api/v1/studies/..%2f..%2fetc").status == 404


def test_the_status_is_that_of_the_command(ask: Asker, home: Path, perdure: Call) -> None:
    told, printed = ask.get("/api/v1/status").json(), json.loads(perdure("status", "--home", str(home), "--json").out)
    assert told == printed
    assert (told["serving"], told["tasks"]["done"], told["jobs"]["queued"]) == ("v1", 3, 1)


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ({"environment": SUB}, [11, 4, 3]),
        ({"version": "v1"}, [11, 10, 9, 6, 5]),
        ({"purpose": "probe"}, [10, 9, 8, 7]),
        ({"outcome": "success"}, [10, 9, 8, 6, 5, 1]),
        ({"outcome": "failure"}, [7, 4, 3, 2]),
        ({"outcome": "running"}, [11]),
        ({"outcome": "aborted"}, []),
        ({"purpose": "live", "outcome": "failure", "environment": ADD}, [2]),
        ({"limit": 2, "before": 10}, [9, 8]),
        ({"limit": 3, "before": 2}, [1]),
    ],
)
def test_episodes_are_filtered_and_paged(ask: Asker, filters: dict[str, Any], found: list[int]) -> None:
    assert ids(ask.get("/api/v1/episodes", **filters).json()) == found


def test_pages_of_a_listing_make_up_the_whole(ask: Asker) -> None:
    for path in ("/api/v1/tasks", "/api/v1/jobs", "/api/v1/log", "/api/v1/episodes"):
        whole, pages, before = ask.get(path).json(), [], None
        while page := ask.get(path, limit=2, before=before).json():
            pages += page
            before = page[-1]["id"]
        assert pages == whole
        assert len(whole) > 2


def test_tasks_and_jobs_of_one_state(ask: Asker) -> None:
    assert ids(ask.get("/api/v1/tasks", state="leased").json()) == [4]
    assert ids(ask.get("/api/v1/jobs", state="queued").json()) == [4]
    assert ids(ask.get("/api/v1/jobs", state="done").json()) == [3, 2, 1]


def test_one_of_each(ask: Asker) -> None:
    assert ask.get("/api/v1/tasks/1").json()["episodes"] == [1, 2]
    shown = ask.get("/api/v1/episodes/1").json()
    assert (shown["rewards"], shown["turns"][0]["logprobs"]) == ({"anna": 0.5}, [-1.0])
    gate = ask.get("/api/v1/gates/1").json()
    assert (gate["candidate"], gate["verdict"], gate["job"], gate["pairs"], gate["most_rounds"]) == ("v1", "promote", 1, 4, 48)
    pairs = ask.get("/api/v1/gates/1/pairs", environment=SUB).json()
    assert [(pair["draw"], pair["reference"], pair["difference"], pair["counts"]) for pair in pairs] == [
        (0, "v0", 0.0, True),
        (1, "v0", -0.25, True),
    ]


def test_environments_are_those_of_the_home(ask: Asker) -> None:
    assert [row["name"] for row in ask.get("/api/v1/environments").json()] == [ADD, SUB]
    one = ask.get("/api/v1/environments", name=ADD).json()
    assert (one["name"], one["compared_with"], one["check"]) == (ADD, "v1", None)
    assert {version: (row["episodes"], row["successes"]) for version, row in one["live"].items()} == {"v0": (2, 1), "v1": (2, 2)}


def test_what_a_check_of_an_environment_found_is_told(tmp_path: Path) -> None:
    with create_store(tmp_path) as store:
        register(store, ADD)
    note_check(tmp_path, ADD, [EnvFinding(level="error", rule="runs", message="it fell over")])
    with open_store(tmp_path) as store:
        check = environment_document(store, ADD)["check"]
    assert (check["ok"], check["found"]) == (False, "breaks a rule: error (runs): it fell over")


def test_the_log_and_its_newest_first(ask: Asker) -> None:
    assert ask.get("/api/v1/log", limit=1).json()[0]["kind"] == "death"


@pytest.mark.parametrize(
    "path",
    [
        "tasks/99",
        "episodes/99",
        "versions/v99",
        "jobs/99",
        "gates/99",
        "gates/99/pairs",
        "environments?name=perdure%3Anone",
        "episodes?version=v99",
        "episodes?environment=none",
        "versions/v1/against/v99",
        "versions/v99/against/v1",
        "versions/v0/against/v1?environment=perdure%3Aadd&seed=7",
        "learning?version=v99",
        "learning?environment=none",
        "panel?version=v1",
    ],
)
def test_what_is_not_there_is_not_found(ask: Asker, path: str) -> None:
    told = ask.get(f"/api/v1/{path}")
    assert told.status == 404
    assert told.json().keys() == {"error"}


def test_a_number_that_is_not_finite_is_null(ask: Asker, home: Path) -> None:
    from perdure.memory.store import open_store

    with open_store(home) as store, store.write() as conn:
        conn.execute("UPDATE episode SET total_reward = 9e999 WHERE id = 1")
    assert ask.get("/api/v1/episodes/1").json()["total_reward"] is None


def test_every_answer_that_is_described_has_the_described_keys(ask: Asker) -> None:
    described = ask.get("/api/v1/openapi.json").json()
    for path in ("tasks", "episodes", "versions", "jobs", "log", "environments", "studies"):
        schema = described["paths"][f"/api/v1/{path}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        line = schema if schema.get("type") == "array" else schema["anyOf"][0]
        wanted = set(described["components"]["schemas"][line["items"]["$ref"].rpartition("/")[2]]["required"])
        for row in ask.get(f"/api/v1/{path}").json():
            assert wanted <= row.keys(), path
    for path, name in {
        "tasks/1": "TaskAnswer",
        "episodes/7": "EpisodeAnswer",
        "versions/v1": "VersionAnswer",
        "gates/1": "GateAnswer",
    }.items():
        assert set(described["components"]["schemas"][name]["required"]) <= ask.get(f"/api/v1/{path}").json().keys()
