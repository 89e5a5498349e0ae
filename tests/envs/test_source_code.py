"""What the code of an environment is: which files it covers, and when it changes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest

from perdure.envs import builtin
from perdure.envs.builtin import BUILTINS
from perdure.envs.registry import load_here
from perdure.envs.source_code import code_of, code_of_folder
from perdure.memory.errors import Unavailable

CLASS = """
class Game:
    turn_limit = 1
    def reset(self, seed=0):
        return "What is {WORD}?"
    def step(self, action):
        return "", float(action == "x"), True
"""
FILES = {
    "coded/__init__.py": "",
    "coded/games.py": "from . import words\nfrom coded.inner.scores import score\nimport json, late_word\n" + CLASS,
    "coded/words.py": "def all():\n    import coded_late\n    return ['one']\n",
    "coded/inner/__init__.py": "",
    "coded/inner/scores.py": "from ..shared import RATE\nscore = RATE\n",
    "coded/shared.py": "RATE = 1\n",
    "coded/unused.py": "X = 1\n",
    "coded/data.csv": "a,b\n",
    "coded_late.py": "Y = 1\n",
    "late_word.py": "Z = 1\n",
    "elsewhere.py": "W = 1\n",
}
COVERED = {
    *("coded/__init__.py", "coded/games.py", "coded/words.py", "coded/inner/scores.py", "coded/shared.py"),
    *("coded_late.py", "late_word.py"),
}


@pytest.fixture
def coded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Imports the module anew, as a new process would, and gives its code; the files are in `tmp_path`."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("coded", "coded_late", "late_word")]:
            del sys.modules[name]
        invalidate_caches()

    def code() -> str:
        forget()
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        import_module("coded.games")
        return load_here("py:coded.games:Game").code

    yield code
    forget()


def test_it_is_short_and_the_same_for_the_same_files(coded: Callable[[], str]) -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", coded())
    assert coded() == coded()


def test_it_covers_the_modules_that_are_imported_from_the_same_folder_or_package(coded: Callable[[], str], tmp_path: Path) -> None:
    before = coded()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text + "# changed\n")
        assert (coded() != before) == (name in COVERED), name
        (tmp_path / name).write_text(text)
    assert coded() == before
    (tmp_path / "coded" / "new.py").write_text("V = 1\n")
    assert coded() == before, "nothing imports it"


def test_where_the_files_are_does_not_matter(coded: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = coded()
    moved = tmp_path / "moved"
    for name, text in FILES.items():
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        (moved / name).write_text(text)
    for name in COVERED:
        (tmp_path / name).unlink()
    monkeypatch.syspath_prepend(moved)
    assert coded() == before


def test_a_process_does_not_say_that_it_plays_what_it_has_not_imported(coded: Callable[[], str], tmp_path: Path) -> None:
    coded()
    (tmp_path / "coded" / "shared.py").write_text("RATE = 2\n")
    with pytest.raises(Unavailable, match=r"the code of coded\.games has changed since this process imported it"):
        load_here("py:coded.games:Game")
    coded()


def test_built_in_ones_have_the_code_of_their_own_files_whatever_the_version_of_perdure_is(tmp_path: Path) -> None:
    codes = {name: load_here(f"perdure:{name}").code for name in BUILTINS}
    assert all(re.fullmatch(r"[0-9a-f]{16}", code) for code in codes.values())
    by_file: dict[str, set[str]] = {}
    for name, game in BUILTINS.items():
        by_file.setdefault(game.__module__, set()).add(codes[name])
    assert all(len(found) == 1 for found in by_file.values())
    assert len(by_file) == len({code for found in by_file.values() for code in found}) == 3
    assert load_here("perdure:add?terms=3").code == codes["add"]
    folder = Path(builtin.__file__).parent.absolute()
    assert code_of_folder("perdure.envs.builtin.word_games", folder) == codes["first-word"]


def test_those_of_installed_packages_have_their_version() -> None:
    assert re.fullmatch(r"gymnasium \d+\.\d+\.\d+", load_here("gym:FrozenLake-v1").code)
    assert re.fullmatch(r"textarena \d+\.\d+\.\d+", load_here("textarena:GuessTheNumber-v0").code)


def test_a_class_of_an_installed_package_in_a_module_of_ones_own_has_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reused.py").write_text("from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv as Lake\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert re.fullmatch(r"gymnasium [\d.]+, [0-9a-f]{16}", load_here("py:reused:Lake").code)
    assert re.fullmatch(r"[0-9a-f]{16}", code_of("reused", "functools"))


@pytest.mark.parametrize("text", ["def broken(:\n", "\0", "import\n"])
def test_a_file_that_is_no_python_is_covered_too(coded: Callable[[], str], tmp_path: Path, text: str) -> None:
    """It is imported by a condition that never holds."""
    (tmp_path / "coded" / "games.py").write_text("if False:\n    import coded.unused\n" + FILES["coded/games.py"])
    before = coded()
    (tmp_path / "coded" / "unused.py").write_text(text)
    assert coded() != before


def test_nothing_is_known_of_what_is_not_imported() -> None:
    found: Any = code_of("no.such.module")
    assert found == ""
