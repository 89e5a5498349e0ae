"""What the commands print and change, on a home with versions, tasks and an episode."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.conftest import ADD, Call
from tests.agent.timing import timed
from tests.fakes import ByteChat, ScriptedPolicy

from perdure.agent.home import HomeLock, lock_is_held
from perdure.envs.playing import Attempt
from perdure.envs.registry import load
from perdure.envs.rollout import play
from perdure.memory import environments, versions
from perdure.memory.environments import list_environments
from perdure.memory.leases import BootClock
from perdure.memory.processes import beat
from perdure.memory.records import VersionRef
from perdure.memory.stages import Stage, StageShare, set_stages
from perdure.memory.store import open_store
from perdure.memory.tasks import add_tasks, lease_tasks
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.versions import serving

SORT = "perdure:sort-numbers"


def test_status_without_a_daemon(perdure: Call, home: Path) -> None:
    done = perdure("status")
    found = json.loads(done.out)
    assert found["state"] == "stopped"
    assert "perdure run" in found["idle_reason"]
    assert found["last_death"] is None
    assert found["serving"] == "v1"
    assert found["tasks"] == {"queued": 1, "running": 0, "done": 1, "failed": 0}
    assert (found["episodes"], found["turns"]) == (1, 1)
    assert found["jobs"]["queued"] == 0
    assert found["last_verdict"] is None
    assert found["uptime_s"] is None
    assert found["environments"][ADD]["success_rate"] == 1.0


def test_status_tells_what_the_holder_of_the_lock_said(perdure: Call, home: Path) -> None:
    with HomeLock(home), open_store(home) as store:
        assert json.loads(perdure("status", "--json").out)["state"] == "busy"
        beat(store, "supervisor", os.getpid() + 1, "playing", "of an earlier one")
        assert json.loads(perdure("status").out)["state"] == "busy"
        beat(store, "supervisor", os.getpid(), "playing", "too few episodes")
        found = json.loads(perdure("status").out)
        assert (found["state"], found["idle_reason"]) == ("playing", "too few episodes")
        assert 0 <= found["uptime_s"] < 60
        store.db.execute("UPDATE process SET beat_at = beat_at - 100")
        assert "has written nothing for 100 s" in json.loads(perdure("status").out)["idle_reason"]


def test_status_tells_how_far_the_stream_is(perdure: Call, home: Path) -> None:
    assert json.loads(perdure("status").out)["stream"] == {"stage": None, "stages": []}
    words = Stage(
        name="words", environments=(StageShare(name=ADD, weight=2.0, tasks=9), StageShare(name=SORT)), members=4, tasks=20, order="shuffled"
    )
    last = Stage(name="last", environments=(StageShare(name=ADD),), members=8)
    with open_store(home) as store:
        set_stages(store, [words, last])
        add_tasks(store, ADD, [1, 2], 4, "stream", "words")
    stream = json.loads(perdure("status").out)["stream"]
    assert stream["stage"] == "words"
    assert stream["stages"][0] == {
        "name": "words",
        "order": "shuffled",
        "curriculum": False,
        "members": 4,
        "tasks": 20,
        "drawn": 2,
        "queued": 2,
        "ended": 0,
        "environments": {
            ADD: {"weight": 2.0, "tasks": 9, "drawn": 2, "queued": 2, "ended": 0},
            SORT: {"weight": 1.0, "tasks": 0, "drawn": 0, "queued": 0, "ended": 0},
        },
    }
    assert [(stage["name"], stage["tasks"], stage["drawn"]) for stage in stream["stages"]] == [("words", 20, 2), ("last", 0, 0)]
    with open_store(home) as store:
        set_stages(store, [replace(words, tasks=2)])
    assert json.loads(perdure("status").out)["stream"]["stage"] is None


def test_a_job_knows_the_environments_of_the_stages_that_have_begun(perdure: Call, home: Path, tmp_path: Path) -> None:
    stages = [("first", SORT, "tasks = 2"), ("second", "perdure:copy-word", "")]
    lines = ["model = 'tiny'\n"]
    lines += [f"[[stream.stages]]\nname = '{name}'\nenvironments = ['{environment}']\n{more}\n" for name, environment, more in stages]
    (tmp_path / "perdure.toml").write_text("".join(lines))

    def known() -> list[str]:
        assert "no target was chosen" in perdure("learn", "grpo").err
        with open_store(home) as store:
            return [one.name for one in list_environments(store)]

    assert known() == [ADD, SORT]
    with open_store(home) as store:
        add_tasks(store, SORT, [1, 2], 1, "stream", "first")
    assert known() == [ADD, SORT, "perdure:copy-word"]


def test_a_command_makes_environments_critical_and_never_takes_that_back(perdure: Call, home: Path, tmp_path: Path) -> None:
    def critical(names: list[str]) -> list[str]:
        (tmp_path / "perdure.toml").write_text(f"model = 'tiny'\nstream.environments = ['{ADD}', '{SORT}']\ngate.critical = {names}\n")
        assert "no target was chosen" in perdure("learn", "grpo").err
        with open_store(home) as store:
            return [row.name for row in list_environments(store) if row.critical]

    assert critical([SORT]) == [SORT]
    assert critical([]) == [SORT]
    assert critical([ADD]) == [ADD, SORT]


def test_tasks_are_added_to_a_home_that_is_made_for_them(perdure: Call, tmp_path: Path) -> None:
    done = perdure("task", "add", f"{ADD}?highest=20", "--seed", "5", "--count", "3", "--json")
    found = json.loads(done.out)
    assert [(row["environment"], row["seed"], row["state"], row["episodes"]) for row in found] == [
        (ADD, seed, "queued", []) for seed in (5, 6, 7)
    ]
    assert [row["id"] for row in found] == [1, 2, 3]
    assert {row["members"] for row in found} == {8}
    assert not lock_is_held(tmp_path / ".perdure")
    text = perdure("task", "add", ADD).out
    assert "task 4" in text
    listed = json.loads(perdure("task", "list", "--limit", "2", "--json").out)
    assert [row["id"] for row in listed] == [4, 3]


def test_tasks_can_be_added_while_a_daemon_runs(perdure: Call, home: Path) -> None:
    with HomeLock(home):
        assert perdure("task", "add", ADD, "--count", "2").code == 0
    assert len(json.loads(perdure("task", "list", "--json").out)) == 4


def test_task_list_is_a_plain_table_without_a_terminal(perdure: Call, home: Path) -> None:
    lines = perdure("task", "list").out.splitlines()
    assert lines[0].split() == ["id", "created", "environment", "seed", "state", "source", "stage", "episodes"], (
        "a column of errors only if a task has one"
    )
    number, _, *rest = lines[2].split()[:7]
    assert (number, rest) == ("1", [ADD, "7", "done", "stream", "all"])
    assert {row["stage"] for row in json.loads(perdure("task", "list", "--json").out)} == {"all"}


def test_an_episode_is_shown_turn_by_turn(perdure: Call, home: Path) -> None:
    found = json.loads(perdure("episode", "show", "LAST", "--json").out)
    assert (found["id"], found["environment"], found["state"], found["success"]) == (1, ADD, "completed", True)
    (turn,) = found["turns"]
    assert turn["prompt_ids"] == [1, 2, 3]
    assert turn["action_ids"] == [4, 5]
    assert turn["logprobs"] == [-0.25, -0.5]
    assert (turn["observation"], turn["action"], turn["reward"], turn["sampler"]) == ("1 + 1?\x1b[31m", "2", 1.0, "v1")
    text = perdure("episode", "show", "1").out
    assert "\x1b" not in text
    assert "1 + 1?\\x1b[31m" in text
    assert "4 5" in text
    assert "-0.250 -0.500" in text


@pytest.mark.processes
def test_an_answer_that_was_no_action_is_shown_with_its_reason(perdure: Call, home: Path) -> None:
    with open_store(home) as store:
        cliff = load("gym:CliffWalking-v1")
        environments.register(store, cliff.name, cliff.threshold, cliff.reward_low, cliff.reward_high)
        add_tasks(store, cliff.name, [8], 1, "stream")
        *_, (_, lease) = lease_tasks(store, "actor", 2, 60.0, BootClock())
        attempt = Attempt(environment=cliff, seed=8, group="g", member=0, purpose="live", lease=lease)
        policy = ScriptedPolicy(lambda observation: "fly", VersionRef("v1"))
        journal = StoreJournal(store, BootClock())
        play([attempt], policy, ByteChat(), VersionRef("v1"), journal, temperature=1.0, width=1, context_limit=4096)
    (turn,) = json.loads(perdure("episode", "show", "LAST", "--json").out)["turns"]
    assert turn["invalid"] == "'fly' does not fit. Reply with only one of up, right, down, left."
    assert f"no action    {turn['invalid']}" in perdure("episode", "show", "LAST").out


@pytest.mark.processes
def test_an_episode_is_judged_and_shows_by_whom(perdure: Call, home: Path) -> None:
    assert json.loads(perdure("episode", "show", "LAST", "--json").out)["rewards"] == {}
    assert "judged" not in perdure("episode", "show", "LAST").out
    assert perdure("episode", "reward", "LAST", "-0.5", "--source", "bo\x1b[31m").code == 0
    done = perdure("episode", "reward", "1", "0.25", "--source", "anna", "--json")
    assert json.loads(done.out) == {"source": "anna", "episodes": [1]}
    assert perdure("episode", "reward", "1", "0.75", "--source", "anna").out.startswith("anna has rewarded episode 1. ")
    found = json.loads(perdure("episode", "show", "1", "--json").out)
    assert found["rewards"] == {"anna": 0.75, "bo\x1b[31m": -0.5}
    assert found["total_reward"] == 1.0, "the environment's own reward stays"
    assert "rewarded afterwards: 0.75 by anna, -0.5 by bo\\x1b[31m" in perdure("episode", "show", "1").out


def test_episodes_are_judged_from_a_file_all_or_none(perdure: Call, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "rewards.jsonl"
    file.write_text('{"episode": 1, "reward": 0.5}\n\n{"episode": 7, "reward": 1}\n{"episode": 1}\n')
    done = perdure("episode", "reward", "--file", str(file), "--source", "judge")
    assert done.code == 2
    assert "line 3: episode 7 is not in this home" in done.err
    assert "line 4: is not of the form" in done.err
    assert json.loads(perdure("episode", "show", "1", "--json").out)["rewards"] == {}
    file.write_text('{"episode": 1, "reward": 0.5}\n')
    assert perdure("episode", "reward", "--file", str(file), "--source", "judge").code == 0
    assert json.loads(perdure("episode", "show", "1", "--json").out)["rewards"] == {"judge": 0.5}


def test_episodes_are_listed_by_environment_and_version(perdure: Call, home: Path) -> None:
    assert [row["id"] for row in json.loads(perdure("episode", "list", "--env", ADD, "--version", "v1", "--json").out)] == [1]
    assert json.loads(perdure("episode", "list", "--version", "v0", "--json").out) == []


def test_versions_are_listed_with_their_states(perdure: Call, home: Path) -> None:
    found = {row["name"]: row for row in json.loads(perdure("version", "list", "--json").out)}
    assert {name: row["state"] for name, row in found.items()} == {
        "v0": "retired",
        "v1": "serving",
        "v2": "candidate",
        "v3": "rejected",
    }
    assert found["v1"]["parent"] == "v0"
    assert found["v1"]["hash"] == "hash-of-v1"
    assert found["v1"]["created"].startswith("20")
    shown = json.loads(perdure("version", "show", "v1", "--json").out)
    assert [move["reason"] for move in shown["moves"]] == ["for the test"]
    assert "for the test" in perdure("version", "show", "v1").out


def test_promotion_and_rollback_move_the_pointer_and_are_written_down(perdure: Call, home: Path) -> None:
    assert perdure("version", "promote", "v2", "--reason", "better").code == 0
    with open_store(home) as store:
        assert serving(store).name == "v2"
    assert perdure("version", "rollback", "--reason", "worse").code == 0
    assert perdure("version", "rollback", "v0", "--reason", "much worse").code == 0
    with open_store(home) as store:
        assert serving(store).name == "v0"
        assert [move.reason for move in versions.moves(store)][-3:] == ["better", "worse", "much worse"]


@pytest.mark.processes
def test_rollback_takes_less_than_a_second_with_all_that_a_process_costs(perdure: Call, home: Path) -> None:
    taken = []
    for _ in range(3):
        assert perdure("version", "promote", "v2", "--reason", "r").code == 0
        done, seconds = timed([sys.executable, "-m", "perdure", "version", "rollback", "--reason", "r"], cwd=home.parent)
        assert done.returncode == 0, done.stderr
        taken.append(seconds)
    assert min(taken) < 1.0


def test_rollback_works_while_a_daemon_holds_the_home(perdure: Call, home: Path) -> None:
    with HomeLock(home):
        assert perdure("version", "rollback", "--reason", "r").code == 0


def test_a_version_without_its_files_does_not_come_to_serve(perdure: Call, home: Path) -> None:
    for name in ("v1", "v2"):
        (home / "versions" / name / "adapter_model.safetensors").unlink()
        (home / "versions" / name).rmdir()
    done = perdure("version", "promote", "v2", "--reason", "r")
    assert done.code == 3
    assert "the files of v2 are not in" in done.err
    perdure("version", "rollback", "--reason", "to v0, which has no files")
    done = perdure("version", "rollback", "v1", "--reason", "r")
    assert done.code == 3
    with open_store(home) as store:
        assert serving(store).name == "v0"
        assert [move.to_version for move in versions.moves(store)] == ["v0", "v1", "v0"]


@pytest.mark.processes
def test_gc_removes_rejected_versions_and_what_was_left_behind_only(perdure: Call, home: Path) -> None:
    (home / "versions" / ".making-v4-77").mkdir()
    (home / "versions" / ".making-v6-78").mkdir()
    (home / "versions" / "v5").symlink_to(home)
    for name in (".making-v4-77", "v5"):
        os.utime(home / "versions" / name, (0, 0), follow_symlinks=False)
    dry = json.loads(perdure("version", "gc", "--dry-run", "--json").out)
    assert [Path(row["path"]).name for row in dry] == [".making-v4-77", "v3", "v5"]
    assert dry[0]["size_bytes"] == 0
    assert dry[1]["size_bytes"] >= 1000
    assert (home / "versions" / "v3").is_dir()
    with HomeLock(home):
        assert perdure("version", "gc").code == 2
    assert perdure("version", "gc").code == 0
    assert sorted(path.name for path in (home / "versions").iterdir()) == [".making-v6-78", "v1", "v2"], "v6 is in the making"
    assert (home / "perdure.db").is_file()
    assert "the files of v3 are not in" in perdure("gate", "v3").err


def test_version_says_whether_its_files_are_there(perdure: Call, home: Path) -> None:
    assert json.loads(perdure("version", "show", "v3", "--json").out)["on_disk"] is True
    perdure("version", "gc")
    assert json.loads(perdure("version", "show", "v3", "--json").out)["on_disk"] is False
    assert json.loads(perdure("version", "show", "v0", "--json").out)["on_disk"] is True


def test_gc_leaves_what_is_pinned_or_an_anchor(perdure: Call, home: Path) -> None:
    assert perdure("version", "pin", "v3").code == 0
    assert json.loads(perdure("version", "gc", "--dry-run", "--json").out) == []
    perdure("version", "pin", "v3", "--off")
    with open_store(home) as store, store.write() as conn:
        conn.execute("UPDATE environment SET anchor = 'v3' WHERE name = ?", (ADD,))
    assert json.loads(perdure("version", "gc", "--dry-run", "--json").out) == []


def test_environments_are_listed(perdure: Call) -> None:
    found = {row["name"]: row for row in json.loads(perdure("env", "list", "--json").out)}
    assert found[ADD]["summary"]
    assert {option["name"] for option in found[ADD]["options"]} >= {"highest", "terms"}
    assert ADD in perdure("env", "list").out


@pytest.mark.processes
def test_env_check_says_no_with_exit_code_1(perdure: Call, tmp_path: Path) -> None:
    (tmp_path / "broken_game.py").write_text(
        "import gymnasium, random\n"
        "from perdure.envs.environment import AnyText\n"
        "class Game(gymnasium.Env[str, str]):\n"
        "    observation_space = AnyText()\n"
        "    action_space = AnyText()\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return 'guess', {}\n"
        "    def step(self, action):\n"
        "        return 'no', 7.0, True, False, {}\n"
    )
    done = perdure("env", "check", "py:broken_game:Game")
    found = json.loads(done.out)
    assert done.code == 1
    assert found["ok"] is False
    assert {"level", "rule", "message"} == set(found["findings"][0])
    assert "broken_game" not in sys.modules, "it is never imported here"


@pytest.mark.processes
def test_a_person_can_play(process: Call) -> None:
    done = process("env", "play", "perdure:add", "--seed", "7", text="zzz\n")
    assert done.code == 0, done.err
    assert "Return 0: no success." in done.out
    left = process("env", "play", "perdure:add", "--seed", "7")
    assert left.code == 0
    assert "The game ended early." in left.out


def test_the_gate_tests_itself(perdure: Call) -> None:
    done = perdure("gate", "--self-test", "--runs", "50", "--profile", "economy")
    found = json.loads(done.out)
    assert done.code == (0 if found["ok"] else 1)
    assert {rate["profile"] for rate in found["rates"]} == {"economy"}
    assert all(rate["bound"] > 0.05 for rate in found["rates"])


@pytest.mark.processes
def test_doctor_reports_every_check_and_fails_if_something_is_missing(perdure: Call, home: Path, tmp_path: Path) -> None:
    done = perdure("doctor", "--json")
    found = json.loads(done.out)
    names = [check["name"] for check in found["checks"]]
    assert {"python", "packages", "sqlite", "memory", "gpu", "home", "configuration", "room", "model", "environments"} <= set(names)
    assert found["ok"] == (done.code == 0) == all(check["level"] != "error" for check in found["checks"])
    (tmp_path / "perdure.toml").write_text("[stream]\nenvironments = ['perdure:nowhere']\n")
    done = perdure("doctor", "--json")
    assert done.code == 1
    (broken,) = [check for check in json.loads(done.out)["checks"] if check["name"] == "environments"]
    assert broken["level"] == "error"
    assert broken["remedy"]
    (tmp_path / "perdure.toml").write_text(f"[stream]\nenvironments = ['{ADD}']\n[disk]\nbudget_gib = 1e-6\n")
    (room,) = [check for check in json.loads(perdure("doctor", "--json").out)["checks"] if check["name"] == "room"]
    assert room["level"] == "warning"
    assert room["found"].startswith("learning and play would wait: the home takes ")
    (home / "perdure.db").write_text("not a database " * 100)
    done = perdure("doctor")
    assert done.code == 1
    assert "is not a database" in done.out


@pytest.mark.parametrize(
    ("sqlite", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 4), False),
    ],
)
def test_the_range_of_the_wal_reset_bug(sqlite: tuple[int, ...], affected: bool) -> None:
    from perdure.agent.doctor import affected_by_wal_reset

    assert affected_by_wal_reset(sqlite) is affected
