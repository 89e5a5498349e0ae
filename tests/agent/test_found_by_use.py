"""Faults that were found by using Perdure: a wrong folder, a lost database, outputs that are no files, and commands of the first week."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.conftest import ADD, Call

from perdure.agent.control_groups import cpu_quota, memory_limit_bytes, usable_cores
from perdure.agent.home import NETWORK, HomeLock, cache_dir, file_system_of
from perdure.learners.weights.base_models import find_model
from perdure.memory.contracts.orders import GateOrder, LearnOrder
from perdure.memory.environments import anchor_of, environments_in_use, list_environments
from perdure.memory.jobs import add_job, get_job
from perdure.memory.processes import Alarm, beat, events, record_event, set_alarms
from perdure.memory.store import FILE_NAME, open_store
from perdure.memory.tasks import counts

ORDER = LearnOrder(learner="grpo", options={}, profile="standard")


def contents(home: Path) -> tuple[list[str], dict[str, int], int]:
    with open_store(home) as store:
        jobs = int(store.rows("SELECT count(*) AS n FROM job")[0]["n"])
        return [row.name for row in list_environments(store)], counts(store), jobs


# --- the wrong folder ---


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--tasks", "1"),
        ("learn", "grpo", "--target", "perdure:copy-word"),
        ("gate", "v2"),
        ("probe",),
        ("panel", "v1"),
        ("task", "add", "perdure:copy-word"),
    ],
)
def test_found_a_configuration_of_another_model_changes_nothing(
    perdure: Call, home: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "perdure.toml").write_text("[stream]\nenvironments = ['perdure:copy-word']\n")
    before = contents(home)
    done = perdure(*command)
    assert done.code == 2
    assert "belong to the model 'tiny', not to 'smollm2-135m'" in done.err
    assert contents(home) == before


# --- a database that was lost ---


@pytest.mark.parametrize("lost", ["emptied", "removed"])
def test_found_a_lost_database_is_no_new_home(perdure: Call, home: Path, lost: str) -> None:
    for file in home.glob(f"{FILE_NAME}*"):
        file.unlink()
    if lost == "emptied":
        (home / FILE_NAME).touch()
        assert "restore a backup" in perdure("status").err
    for command in (("run", "--tasks", "1"), ("task", "add", ADD)):
        done = perdure(*command)
        assert done.code == 3
        assert "restore a backup" in done.err
        assert not (home / FILE_NAME).exists() or (home / FILE_NAME).stat().st_size == 0


@pytest.mark.processes
def test_found_doctor_says_of_a_home_what_a_run_would(perdure: Call, home: Path) -> None:
    def said() -> tuple[str, str]:
        checks = json.loads(perdure("doctor", "--json").out)["checks"]
        return next((check["level"], check["found"]) for check in checks if check["name"] == "home")

    assert said()[0] == "ok"
    with open_store(home) as store:
        store.db.conn.execute("PRAGMA user_version = 1")
    assert said()[0] == "warning"
    assert "start `perdure run` once to migrate it" in said()[1]
    for file in home.glob(f"{FILE_NAME}*"):
        file.unlink()
    assert said()[0] == "error"
    assert "restore a backup" in said()[1]


def test_found_a_database_without_versions_is_damaged(perdure: Call, home: Path) -> None:
    with open_store(home) as store:
        conn = store.db.conn
        conn.execute("PRAGMA foreign_keys = OFF")
        for table in ("turn", "episode", "move", "rate", "version"):
            conn.execute(f"DELETE FROM {table}")
    done = perdure("status")
    assert done.code == 3
    assert "knows no version" in done.err


def test_found_an_empty_file_in_a_home_that_has_nothing_is_filled(perdure: Call, tmp_path: Path) -> None:
    (tmp_path / ".perdure").mkdir()
    (tmp_path / ".perdure" / FILE_NAME).touch()
    with HomeLock(tmp_path / ".perdure"):
        pass
    assert "start `perdure run` once" in perdure("task", "list").err


# --- outputs that are no ordinary files ---


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe"])
@pytest.mark.parametrize("command", [("export", "--format", "jsonl", "--out"), ("backup",)])
def test_found_force_replaces_ordinary_files_only(perdure: Call, home: Path, tmp_path: Path, kind: str, command: tuple[str, ...]) -> None:
    kept, out = tmp_path / "kept.txt", tmp_path / "out"
    kept.write_text("kept")
    if kind == "pipe":
        os.mkfifo(out)
    else:
        out.symlink_to(kept if kind == "link" else tmp_path / "nowhere")
    done = perdure("store", *command, "out", "--force")
    assert done.code == 2
    assert "no ordinary file" in done.err
    assert stat.S_ISFIFO(out.lstat().st_mode) if kind == "pipe" else out.is_symlink()
    assert kept.read_text() == "kept"


# --- jobs ---


def test_found_jobs_are_listed_shown_and_cancelled(perdure: Call, home: Path) -> None:
    with open_store(home) as store:
        first = add_job(store, "first", [ADD], ORDER)
        second = add_job(store, "second", [], GateOrder(candidate="v2", profile="standard"))
    listed = json.loads(perdure("job", "list", "--json").out)
    assert [(row["id"], row["kind"], row["state"]) for row in listed] == [(second, "gate", "queued"), (first, "learn", "queued")]
    assert "grpo" in perdure("job", "list").out
    assert json.loads(perdure("job", "show", str(first), "--json").out)["targets"] == [ADD]
    assert perdure("job", "cancel", str(first), "--reason", "not today").code == 0
    with open_store(home) as store:
        cancelled = get_job(store, first)
        assert (cancelled.state, cancelled.error, cancelled.cancelled) == ("failed", "cancelled: not today", True)
        assert get_job(store, second).state == "queued"
    again = perdure("job", "cancel", str(first))
    assert (again.code, "failed already" in again.err) == (2, True)
    assert perdure("job", "show", "99").code == 2


# --- pauses ---


def test_found_play_and_learning_are_paused_and_resumed(perdure: Call, home: Path) -> None:
    assert perdure("pause").code == 2, "a reason is asked for"
    assert perdure("pause", "learning", "--reason", " ").code == 2
    assert perdure("pause", "learning", "--reason", "busy").code == 0
    assert perdure("pause", "--reason", "both now").code == 0
    paused = json.loads(perdure("status", "--json").out)["pauses"]
    assert [(row["what"], row["reason"]) for row in paused] == [("learning", "both now"), ("play", "both now")]
    assert "Play resumed" in perdure("resume", "play").out
    assert perdure("resume", "play").code == 2
    assert perdure("resume").code == 0
    assert json.loads(perdure("status", "--json").out)["pauses"] == []


# --- retired environments ---


def test_found_an_environment_is_retired_and_brought_back_with_its_anchor(perdure: Call, home: Path) -> None:
    with open_store(home) as store, store.write() as conn:
        conn.execute("UPDATE environment SET anchor = 'v1' WHERE name = ?", (ADD,))
        job = add_job(store, "waits", [ADD], ORDER)
    done = perdure("env", "retire", ADD)
    assert (done.code, "1 of its tasks waited" in done.out) == (0, True)
    assert f"Job {job} has it as a target: `perdure job cancel {job}` takes it back." in done.out
    with open_store(home) as store:
        assert [row.name for row in environments_in_use(store)] == []
        assert counts(store)["queued"] == 0
        assert store.rows("SELECT count(*) AS n FROM episode")[0]["n"] == 1, "its history stays"
    for refused in (("env", "retire", ADD), ("task", "add", ADD), ("learn", "grpo", "--target", ADD), ("probe", "--target", ADD)):
        found = perdure(*refused)
        assert (found.code, "retired" in found.err) == (2, True), refused
    assert perdure("env", "retire", "perdure:nowhere").code == 2
    assert "anchor v1" in perdure("env", "restore", ADD).out
    with open_store(home) as store:
        assert [row.name for row in environments_in_use(store)] == [ADD]
        assert anchor_of(store, ADD) == "v1"
    assert perdure("env", "restore", ADD).code == 2


# --- status as a health check ---


def test_found_status_checks_the_health_of_a_daemon(perdure: Call, home: Path) -> None:
    stopped = perdure("status", "--check", "--table")
    assert (stopped.code, "no daemon runs" in stopped.out) == (1, True)
    with HomeLock(home), open_store(home) as store:
        record_event(store, "disk", "learning", "it waits for room: of an earlier run")
        record_event(store, "start", "supervisor", "process 1")
        beat(store, "supervisor", os.getpid(), "playing", "3 more episodes")
        assert perdure("status", "--check").code == 0
        assert perdure("status", "--check", "--table").out == "playing: 3 more episodes\n"
        record_event(store, "given up", "learning", "after 5 jobs")
        given_up = perdure("status", "--check", "--table")
        assert (given_up.code, given_up.out) == (1, "learning: after 5 jobs\n")
        record_event(store, "start", "supervisor", "process 2")
        record_event(store, "disk", "play", "it waits for room: the disk has 1 GiB free")
        found = json.loads(perdure("status", "--check", "--json").out)
        assert (found["healthy"], found["troubles"]) == (False, ["play: it waits for room: the disk has 1 GiB free"])
        record_event(store, "disk", "play", "there is room again")
        beat(store, "supervisor", os.getpid(), "restarting", "the actor died")
        assert perdure("status", "--check", "--table").out == "the actor died\n"
        assert perdure("status").code == 0
    assert perdure("status", "--check", "--watch").code == 2


def test_found_status_shows_set_times_sizes_and_a_table(perdure: Call, home: Path) -> None:
    with open_store(home) as store:
        set_alarms(store, [Alarm(name="cron", setting="0 3 * * 0 (UTC)", next=1796526000.0)])
    found = json.loads(perdure("status").out)
    assert found["alarms"] == [{"name": "cron", "setting": "0 3 * * 0 (UTC)", "next": "2026-12-06T03:00:00+00:00", "rung": None}]
    assert found["sizes"]["database"] > 0
    assert found["sizes"]["versions"] > 0
    text = perdure("status", "--table").out
    assert "2026-12-06 03:00 UTC (cron = 0 3 * * 0 (UTC))" in text
    assert "database" in text
    with open_store(home) as store:
        set_alarms(store, [Alarm(name="cron", setting="0 4 * * 0 (Europe/Berlin)", next=1796526000.0)])
    assert "2026-12-06 04:00 CET (cron = 0 4 * * 0 (Europe/Berlin))" in perdure("status", "--table").out
    with open_store(home) as store:
        set_alarms(store, [Alarm(name="every_minutes", setting="60", next=1000.0)])
    assert "(passed, and is made up for) (every_minutes = 60)" in perdure("status", "--table").out


def test_found_status_names_what_works_what_is_retired_and_the_confinement(perdure: Call, home: Path) -> None:
    found = json.loads(perdure("status").out)
    assert (found["doing"], found["retired"], found["sandbox"]) == (None, [], None)
    perdure("env", "retire", ADD)
    with HomeLock(home), open_store(home) as store:
        record_event(
            store, "start", "supervisor", "process 1, environments cannot be confined here (no namespaces); only trusted ones can run"
        )
        beat(store, "supervisor", os.getpid(), "learning", "job 3: grpo perdure:add, 5 updates so far")
        found = json.loads(perdure("status").out)
        assert (found["doing"], found["idle_reason"]) == ("job 3: grpo perdure:add, 5 updates so far", None)
        assert found["retired"] == [ADD]
        assert found["sandbox"] == "environments cannot be confined here (no namespaces); only trusted ones can run"
        text = perdure("status", "--table").out
    for line in ("doing  job 3: grpo perdure:add, 5 updates so far", f"retired  {ADD}", "sandbox  environments cannot be confined"):
        assert line in text


@pytest.mark.processes
def test_found_the_zone_of_the_machine_is_not_needed_to_tick() -> None:
    code = "from perdure.agent.supervision.ticker import start_ticker\nstart_ticker(print).shutdown()"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TZ": "Nowhere/Town"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- the limits of a container ---


@pytest.mark.parametrize("version", [1, 2])
def test_found_the_limits_of_control_groups_are_seen(tmp_path: Path, version: int) -> None:
    own, mount = tmp_path / "cgroup", tmp_path / "mount"
    own.write_text("0::/pod/box\n" if version == 2 else "4:cpu,cpuacct:/pod/box\n5:memory:/pod/box\n")
    for group, quota, memory in (("", -1, None), ("pod", 150000, 2**30), ("pod/box", 300000, 2**32)):
        cpu_folder = mount / group if version == 2 else mount / "cpu" / group
        memory_folder = mount / group if version == 2 else mount / "memory" / group
        cpu_folder.mkdir(parents=True, exist_ok=True)
        memory_folder.mkdir(parents=True, exist_ok=True)
        if version == 2:
            (cpu_folder / "cpu.max").write_text(f"{'max' if quota < 0 else quota} 100000\n")
            (memory_folder / "memory.max").write_text(f"{memory or 'max'}\n")
        else:
            (cpu_folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (cpu_folder / "cpu.cfs_period_us").write_text("100000\n")
            (memory_folder / "memory.limit_in_bytes").write_text(f"{memory or 2**63 - 4096}\n")
    assert cpu_quota(own, mount) == 1.5
    assert memory_limit_bytes(own, mount) == 2**30
    assert cpu_quota(tmp_path / "none", mount) == float("inf")
    assert usable_cores(tmp_path / "none", mount) >= 1
    assert memory_limit_bytes(tmp_path / "none", mount) is None


def test_found_events_of_pauses_and_cancelled_jobs_are_kept(perdure: Call, home: Path) -> None:
    with open_store(home) as store:
        job = add_job(store, "first", [ADD], ORDER)
    perdure("pause", "play", "--reason", "noise")
    perdure("resume", "play")
    perdure("job", "cancel", str(job))
    with open_store(home) as store:
        kinds = [(event.kind, event.subject) for event in reversed(events(store))]
    assert kinds[-3:] == [("paused", "play"), ("resumed", "play"), ("cancelled", f"job {job}")]


# --- what is refused before anything is written ---


def test_found_a_home_on_a_network_file_system_is_seen(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n"
        "40 22 0:40 / /mnt/my\\040files rw shared:2 - nfs4 server:/export rw\n"
        "41 22 0:41 / /mnt/near rw - nfs4 server:/export rw\n"
        "42 41 0:42 / /mnt/near rw - tmpfs none rw\n"
    )
    assert file_system_of(Path("/var/lib/perdure"), mounts) == "ext4"
    assert file_system_of(Path("/mnt/my files/deep/home"), mounts) == "nfs4"
    assert file_system_of(Path("/mnt/near/home"), mounts) == "tmpfs"
    assert file_system_of(Path("/x"), tmp_path / "none") == ""
    for kind, refused in (
        ("nfs4", True),
        ("nfs", True),
        ("cifs", True),
        ("fuse.sshfs", True),
        ("ext4", False),
        ("overlay", False),
        ("9p", False),
    ):
        assert bool(NETWORK.fullmatch(kind)) == refused


def test_found_a_configuration_that_is_nested_without_end_is_one_line(perdure: Call, tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text("x = " + "[" * 5000 + "]" * 5000)
    done = perdure("config", "show")
    assert (done.code, "nested too deeply" in done.err) == (2, True)


def test_found_paths_count_from_the_folder_of_the_configuration(perdure: Call, tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    (folder / "m").mkdir(parents=True)
    (folder / "solved.jsonl").touch()
    (folder / "perdure.toml").write_text(
        "model = 'm'\nvllm.python = './bin/python'\nsandbox.python = { gem = '../py', verifiers = 'python3' }\n"
        "[learn.options]\ndemos = 'solved.jsonl'\n"
    )
    found = {row["key"]: row["value"] for row in json.loads(perdure("config", "show", "--config", "agent/perdure.toml", "--json").out)}
    assert found["model"] == str(folder / "m")
    assert Path(found["vllm.python"]) == folder / "bin/python"
    assert found["sandbox.python"] == {"gem": f"{folder}/../py", "verifiers": "python3"}
    assert found["learn.options.demos"] == str(folder / "solved.jsonl")


@pytest.mark.parametrize(
    "option",
    ["seed=99999999999999999999999", "temperature=1e-300", "kl=1e308", "samples=1000000000", "prompts=1000000", "updates=1000000000"],
)
def test_found_options_beyond_all_use_are_refused_at_once(perdure: Call, home: Path, option: str) -> None:
    before = contents(home)
    done = perdure("learn", "grpo", "--target", ADD, "--option", option)
    assert (done.code, option.partition("=")[0] in done.err) == (2, True)
    assert contents(home) == before


@pytest.mark.parametrize(("limit", "complaint"), [(30, "its first prompt has about"), (10_000, "")])
def test_found_a_context_that_is_too_short_is_seen_before_a_job_is_queued(
    perdure: Call, home: Path, tmp_path: Path, limit: int, complaint: str
) -> None:
    from tests.tiny_models import tiny_llama

    folder = tiny_llama(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": limit}))
    with open_store(home) as store, store.write() as conn:
        conn.execute("UPDATE version SET base_model = ?, base_hash = ?", (str(folder), find_model(str(folder), tmp_path).hash))  # type: ignore[union-attr]
    (tmp_path / "perdure.toml").write_text(f"model = '{folder}'\nstream.environments = ['{ADD}']\n")
    before = contents(home)
    done = perdure("task", "add", f"{ADD}?max_tokens=8")
    assert done.code == (2 if complaint else 0), done.err
    assert complaint in done.err
    assert (contents(home) == before) == bool(complaint)


# --- output ---


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_found_a_terminal_that_knows_few_characters_shows_everything(process: Call, home: Path, encoding: str) -> None:
    with open_store(home) as store:
        record_event(store, "death", "actor", "at \u2588")
    plain = ("env", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", f"PYTHONIOENCODING={encoding}", "LC_ALL=C")
    table = process("status", "--table", prefix=plain)
    assert table.code == 0, table.err
    assert "at \\u2588" in table.out or "at \u2588" in table.out  # click itself writes UTF-8 if the terminal claims to know ASCII only
    document = process("status", "--json", prefix=plain)
    assert json.loads(document.out)["last_death"]["message"] == "at \u2588"


def test_found_h_is_help_and_a_shell_completes(perdure: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    assert perdure("-h").out == perdure("--help").out
    assert "--reason" in perdure("version", "rollback", "-h").out
    assert "Usage" in perdure("bench").err
    monkeypatch.setenv("_PERDURE_COMPLETE", "zsh_source")
    assert "#compdef perdure" in perdure().out
    monkeypatch.setenv("_PERDURE_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", "perdure job ca")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert "cancel" in perdure().out


def test_found_a_user_without_a_home_folder_is_told_to_name_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERDURE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_dir() == Path("/caches/perdure")
    monkeypatch.setenv("PERDURE_CACHE", "/mine")
    assert cache_dir() == Path("/mine")


@pytest.mark.processes
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without a name")
def test_found_a_user_without_a_name_is_told_to_name_a_cache() -> None:
    code = """
import os
from perdure.agent.home import cache_dir
from perdure.memory.errors import InputError
os.environ.clear()
os.setuid(54321)
try:
    print(cache_dir())
except InputError as error:
    print(error)
os.environ["PERDURE_CACHE"] = "/mine"
print(cache_dir())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["this user has no home folder: name one for models in PERDURE_CACHE", "/mine"], done.stderr
