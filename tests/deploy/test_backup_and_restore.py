"""A backup by the script of the timer, and a restore by the lines of docs/operations.md: the restored home serves what the lost one did."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.tiny_models import tiny_llama

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "perdure-backup"
WORD = "perdure:first-word"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """A folder with a `perdure` on its path."""

    folder: Path
    environ: dict[str, str]

    def run(self, *words: str, code: int = 0, **variables: str) -> str:
        done = subprocess.run(
            words, cwd=self.folder, env={**self.environ, **variables}, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def answer(self, *words: str) -> object:
        return json.loads(self.run("perdure", *words, "--json"))


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    program = tmp_path / "bin" / "perdure"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m perdure "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join(str(Path(entry).resolve()) for entry in (ROOT / "src", ROOT))
    environ = {**os.environ, "PATH": f"{program.parent}:/usr/bin:/bin", "PYTHONPATH": path}
    for name in ("PERDURE_HOME", "PERDURE_BACKUPS", "PERDURE_BACKUPS_KEEP"):
        environ.pop(name, None)
    return Shell(folder=tmp_path, environ=environ)


@pytest.fixture
def home(shell: Shell) -> Path:
    """A home whose version v1 serves, with an archive of what v0 played, and a skill of its own in the panel."""
    folder = shell.folder
    (folder / "perdure.toml").write_text(
        f"model = '{tiny_llama(folder / 'model')}'\nplay.members = 2\nstream.environments = ['{WORD}']\nweb.enabled = false\n"
    )
    header = {
        "skill": "invoices",
        "about": "Questions of clerks.",
        "form": "Answer with one word.",
        "example": {"prompt": "Who?", "right": "me"},
    }
    items = [{"id": f"invoices-{n}", "prompt": f"What is {n}?", "right": f"yes{n}", "wrong": [f"not{n}"]} for n in range(48)]
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (header, *items)))
    shell.run("perdure", "run", "--tasks", "1")
    small = ("--option", "demos=oracle", "--option", "updates=1", "--option", "prompts=2", "--option", "samples=2")
    shell.run("perdure", "learn", "sft", "--target", WORD, *small, "--no-gate")
    shell.run("perdure", "version", "promote", "v1", "--reason", "for the test")
    shell.run("perdure", "run", "--tasks", "1")
    shell.run("perdure", "store", "prune", "--keep-episodes", "1")
    shell.run("perdure", "panel", "add", "items.jsonl")
    return folder / ".perdure"


def lines_of_restoring() -> str:
    """The block of commands under 'Restore', but for the daemon without an end."""
    page = (ROOT / "docs" / "operations.md").read_text().split("\n## Restore\n")[1]
    found = re.search(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    *lines, last = found[1].splitlines()
    assert last == "perdure run --home restored"
    return "\n".join(["set -eu", *lines])


@pytest.mark.long
def test_a_restored_home_serves_what_the_lost_one_did(shell: Shell, home: Path) -> None:
    backups = shell.folder / "backups"
    backups.mkdir()
    shell.run(str(SCRIPT), PERDURE_BACKUPS=str(backups))
    (backup,) = backups.glob("perdure-*.db")
    assert backup.stat().st_mode & 0o077 == 0
    assert [file.name for file in (backups / "archive").iterdir()] == [file.name for file in (home / "archive").iterdir()]
    before = {command: shell.answer(*command) for command in (("version", "list"), ("episode", "list"), ("task", "list"))}
    shutil.rmtree(home)

    for made in backups.glob(f"{backup.name}*"):
        made.rename(shell.folder / made.name.replace(backup.name, "nightly.db"))
    said = shell.run("sh", "-c", lines_of_restoring())
    assert json.loads(said)["ok"] is True
    restored = shell.folder / "restored"
    for command, answer in before.items():
        assert shell.answer(*command, "--home", "restored") == answer, command
    assert (restored / "panel" / "invoices.jsonl").is_file()

    shell.run("perdure", "run", "--tasks", "1", "--home", "restored")
    newest = shell.answer("episode", "list", "--limit", "1", "--home", "restored")
    assert isinstance(newest, list)
    assert newest[0]["sampler"] == "v1"
    assert newest[0]["state"] == "completed"
    assert not home.exists()


def test_only_the_newest_backups_stay_and_other_files_are_left_alone(shell: Shell) -> None:
    copy = shell.folder / "copy"
    copy.mkdir()
    kept = ["perdure-20260103T000000Z.db", "perdure-20260104T000000Z.db"]
    old = ["perdure-20260101T000000Z.db", "perdure-20260102T000000Z.db"]
    others = ["perdure-before-the-upgrade.db", "notes.txt"]
    for name in (*kept, *old, *others):
        (copy / name).touch()
    for name in old:
        (copy / f"{name}.versions" / "v1").mkdir(parents=True)
        (copy / f"{name}.history").mkdir()
    shard = copy / f"{kept[-1]}.history" / "turns.parquet"
    shard.parent.mkdir()
    shard.touch()
    stand_in = shell.folder / "bin" / "perdure"
    stand_in.write_text('#!/bin/sh\ntouch "$5"\n')  # store backup --home HOME FILE
    shell.run(str(SCRIPT), PERDURE_BACKUPS=str(copy), PERDURE_BACKUPS_KEEP="3")
    left = sorted(file.name for file in copy.iterdir())
    new, linked = sorted(set(left) - {*kept, *others, shard.parent.name})
    assert re.fullmatch(r"perdure-\d{8}T\d{6}Z\.db", new)
    assert linked == f"{new}.history"
    assert (copy / linked / shard.name).samefile(shard), "what the last backup had takes no room again"
    assert set(left) == {new, linked, *kept, *others, shard.parent.name}

    stand_in.write_text("#!/bin/sh\nexit 1\n")
    shell.run(str(SCRIPT), code=1, PERDURE_BACKUPS=str(copy), PERDURE_BACKUPS_KEEP="1")
    assert sorted(file.name for file in copy.iterdir()) == left


@pytest.mark.parametrize("keep", ["0", "-1", "many", "1;x", " 2"])
def test_a_number_of_backups_that_is_none_is_refused_before_anything_is_done(shell: Shell, keep: str) -> None:
    (shell.folder / "bin" / "perdure").write_text("#!/bin/sh\ntouch was-called\n")
    said = shell.run(str(SCRIPT), code=2, PERDURE_BACKUPS=str(shell.folder), PERDURE_BACKUPS_KEEP=keep)
    assert f"PERDURE_BACKUPS_KEEP={keep} is no number from 1" in said
    assert not (shell.folder / "was-called").exists()
