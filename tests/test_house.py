"""The house: imports go one way, no room holds too many modules, and a file is found by its name."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("memory", "envs", "learners", "agent")
"""Each may import those before it, and itself."""
MOST_MODULES = 18
MOST_LINES = 400
MOST_FIELDS = 10


def sources() -> list[Path]:
    return sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, in type checking too; of `from a import b`, also `a.b`."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                assert level == 0, f"{file}: line {node.lineno} is a relative import"
                assert module is not None
                yield module
                yield from (f"{module}.{name.name}" for name in names)


def breaches(place: Path, modules: Iterator[str]) -> Iterator[str]:
    """What a file at `place`, relative to the project, must not import, of what it imports."""
    here = place.parts[0]
    above = FOLDERS[FOLDERS.index(here) + 1 :]
    foreign = {"memory": {"gymnasium", "textarena", "numpy", "pydantic", "click", "rich"}}.get(here, set())
    if here != "learners" and not place.is_relative_to("agent/bench"):
        foreign |= {"torch", "transformers", "peft"}
    for module in modules:
        parts = module.split(".")
        if parts[0] in foreign or parts[0] in FOLDERS or (parts[0] == "perdure" and parts[1:2] and parts[1] in above):
            yield f"{place} must not import {module}"


def test_imports_go_one_way() -> None:
    assert [breach for file in sources() for breach in breaches(file.relative_to(ROOT), imports(file))] == []


def test_breaches_are_found() -> None:
    wanted = ["perdure.envs.policy", "envs.policy", "torch", "pydantic"]
    found = breaches(Path("memory/store.py"), iter([*wanted, "perdure.memory.records", "json"]))
    assert [line.split()[-1] for line in found] == wanted
    assert list(breaches(Path("agent/bench/x.py"), iter(["torch", "perdure.learners.losses"]))) == []


def test_no_folder_holds_more_modules_than_one_finds_ones_way_in() -> None:
    modules = Counter(file.parent.relative_to(ROOT) for file in sources())
    assert {str(folder): n for folder, n in modules.items() if n > MOST_MODULES} == {}


def test_no_two_files_have_the_same_name() -> None:
    names = Counter(file.name for file in sources() if file.name != "__init__.py")
    assert [name for name, n in names.items() if n > 1] == []


def test_no_file_has_grown_a_second_subject() -> None:
    files = [*sources(), *(ROOT / "tests").rglob("*.py")]
    assert [str(file.relative_to(ROOT)) for file in files if len(file.read_text().splitlines()) > MOST_LINES] == []


def classes() -> Iterator[tuple[str, str]]:
    """The name of every class of the product, with its place."""
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                yield node.name, f"{file.relative_to(ROOT)}:{node.lineno}"


def test_no_two_classes_have_the_same_name() -> None:
    places: dict[str, list[str]] = {}
    for name, place in classes():
        places.setdefault(name, []).append(place)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_class_of_a_learner_has_more_than_ten_fields() -> None:
    rooms = ("learners", "learners/loops", "learners/retention")
    found = [
        f"{node.name} in {file.relative_to(ROOT)}"
        for room in rooms
        for file in (ROOT / room).glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and sum(isinstance(line, ast.AnnAssign) for line in node.body) > MOST_FIELDS
    ]
    assert found == []


def test_pytest_collects_no_class_of_the_product() -> None:
    assert [place for name, place in classes() if name.startswith("Test")] == []


RIDDLES = re.compile(
    r"\b(learnt|whoever|so many|lets? go of|gone on with|what came of|says not|(none|true|false) where|where (it|they|there) (is|are))\b",
    re.IGNORECASE,
)
"""Words that a reader stumbles over; there is a plainer one for each. 'Where' is a place; a condition begins with 'if'."""


def test_texts_are_in_plain_words() -> None:
    files = [*sources(), ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    lines = [(file.relative_to(ROOT), n, line) for file in files for n, line in enumerate(file.read_text().splitlines(), start=1)]
    assert [f"{file}:{n}: {line.strip()}" for file, n, line in lines if RIDDLES.search(line)] == []
    assert RIDDLES.search("what was learnt")
    assert RIDDLES.search("None where it has no end")
    assert not RIDDLES.search("the folder where versions live")
