"""Faults that were found by using Perdure: a wrong folder, a lost database, outputs that are no files, and input that is beyond all use."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.conftest import ADD, Call

from perdure.agent.home import NETWORK, HomeLock, cache_dir, file_system_of
from perdure.learners.weights.base_models import find_model
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.environments import list_environments
from perdure.memory.processes import record_event
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
        store.conn.execute("PRAGMA user_version = 1")
    assert said()[0] == "warning"
    assert "start `perdure run` once to migrate it" in said()[1]
    for file in home.glob(f"{FILE_NAME}*"):
        file.unlink()
    assert said()[0] == "error"
    assert "restore a backup" in said()[1]


def test_found_a_database_without_versions_is_damaged(perdure: Call, home: Path) -> None:
    with open_store(home) as store:
        conn = store.conn
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


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1", "utf-8"])
def test_found_any_bytes_can_be_typed(encoding: str, tmp_path: Path) -> None:
    plain = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    command = [sys.executable, "-m", "perdure", "env", "play", "perdure:copy-word", "--seed", "3"]
    done = subprocess.run(command, input=b"gr\xc3\xbcn \xff\n", capture_output=True, cwd=tmp_path, env=plain, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Return 0: no success." in done.stdout


def test_found_h_is_help_and_a_shell_completes(perdure: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    first = perdure("-h")
    assert first.out == perdure("--help").out, first.err
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
