"""The wheel: built from the tree and installed in a fresh virtual environment, it has every file and runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest
from tests.agent.commands.test_store_commands import full
from tests.agent.web.servers import serving

from perdure import __version__
from perdure.memory.environments import register
from perdure.memory.store import create_store
from perdure.memory.versions import add_initial

__all__ = ["full"]

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("agent", "envs", "learners", "memory")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
"""What pip runs to build a wheel, without downloading setuptools first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    wheel: Path
    folder: Path
    """Of the virtual environment."""

    def run(self, *command: str) -> str:
        """Output of a program of the virtual environment, away from the tree."""
        environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        words = [str(self.folder / "bin" / command[0]), *command[1:]]
        done = subprocess.run(words, cwd=self.folder, env=environ, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("wheel")
    tree, built, folder = place / "tree", place / "built", place / "venv"
    without_caches = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", *FOLDERS):  # building writes into the tree
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=without_caches)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    subprocess.run([sys.executable, "-c", BUILD, str(built)], cwd=tree, check=True, capture_output=True)
    (wheel,) = built.iterdir()
    venv.create(folder)
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--disable-pip-version-check", str(wheel)], check=True, capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    others = [entry for entry in sys.path if Path(entry).name == "site-packages"]
    (packages / "others.pth").write_text("\n".join(others))  # torch and the rest are taken from here, not downloaded
    return Installed(wheel=wheel, folder=folder)


def test_the_wheel_has_every_file_and_no_other(installed: Installed) -> None:
    package = ROOT / "src/perdure"
    files = {f"perdure/{file.name}" for file in package.iterdir() if file.is_file()}
    files |= {f"perdure/{file.relative_to(ROOT)}" for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.is_file()}
    with ZipFile(installed.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (licence,) = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
        assert wheel.read(licence) == (ROOT / "LICENSE").read_bytes()
    assert names == {file for file in files if "__pycache__" not in file}
    assert {"perdure/__init__.py", "perdure/py.typed"} <= names


def test_what_is_installed_is_what_runs(installed: Installed) -> None:
    place = installed.run("python", "-c", "import perdure, perdure.agent.cli; print(perdure.agent.cli.__file__)")
    assert Path(place.strip()).is_relative_to(installed.folder)
    assert installed.run("perdure", "--version") == f"perdure {__version__}\n"


def test_help_lists_the_commands(installed: Installed) -> None:
    text = installed.run("perdure", "--help")
    assert text.startswith("Usage: perdure ")
    assert all(f"\n  {name} " in text for name in ("run", "status", "learn", "env", "version"))


def test_the_installed_environments_are_listed(installed: Installed) -> None:
    text = installed.run("perdure", "env", "list")
    assert "perdure:largest-number" in text
    assert "numbers=" in text


def test_what_is_installed_archives_old_turns_and_answers_sql(installed: Installed, full: Path) -> None:
    moved = json.loads(installed.run("perdure", "store", "archive", "--older-than", "0d", "--home", str(full)))
    assert (moved["turns"], len(moved["shards"])) == (12, 1)
    assert json.loads(installed.run("perdure", "sql", "select count(*) as n from turns", "--home", str(full))) == [{"n": 11}]
    with ZipFile(installed.wheel) as wheel:
        (about,) = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    assert re.search(r'^Requires-Dist: duckdb==[\d.]+; extra == "history"$', about, re.MULTILINE)


def test_what_is_installed_serves_its_pages_and_every_file_that_they_name(installed: Installed, tmp_path: Path) -> None:
    home, static = tmp_path / "home", ROOT / "agent/web/static"
    with create_store(home) as store:
        register(store, "perdure:add")
        add_initial(store, "tiny", "hash-of-tiny")
    with serving(home, interpreter=str(installed.folder / "bin" / "python")) as server:
        browser = server.sign_in()
        page = server.get("/", browser)
        assert (page.status, "v0" in page.text) == (200, True)
        named = set(re.findall(r'(?:href|src)="(/[^"#]*)"', page.text))
        assert {"/static/perdure.css", "/static/perdure.js", "/learning", "/system"} <= named
        for path in named:
            assert server.get(path, browser).status == 200, path
        for file in static.rglob("*"):
            if file.is_file():
                assert server.get(f"/static/{file.relative_to(static)}", {}).body == file.read_bytes()
        where = "import perdure.agent.web as web; print(web.__file__)"
        assert Path(installed.run("python", "-c", where).strip()).is_relative_to(installed.folder)
