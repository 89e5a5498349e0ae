"""The documentation says what is so: commands, links, names, tables."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import get_args

import click
import pytest

from perdure.agent.cli import perdure
from perdure.agent.commands.replay_store import TOKENS_RULE
from perdure.agent.config import Config
from perdure.agent.config_file import OPTIONS, LoadedConfig, settings
from perdure.agent.config_section import Section
from perdure.agent.stream.stream_settings import StageEnvironment, StageSection
from perdure.agent.studies.grid.grid_file import (
    AboutSection,
    ArmHelper,
    ArmLearner,
    ClaimSection,
    GridFile,
    GridSection,
    MatchSection,
    MeasureSection,
    PilotSection,
    StagedStream,
)
from perdure.envs.check.checker import ELSEWHERE, FITS
from perdure.envs.check.rules import RULES, check_rule
from perdure.envs.common_options import COMMON
from perdure.envs.environment_names import as_options
from perdure.envs.listings import listings
from perdure.envs.registry import SOURCES, load_here
from perdure.learners.gate.scope import PROFILES
from perdure.learners.option_parsing import option_entries
from perdure.learners.options import OWN
from perdure.memory.contracts.json_form import update_document
from perdure.memory.contracts.results import Update
from perdure.memory.exchange.documents import document_schema
from perdure.memory.records import Purpose, StageOrder
from perdure.memory.schema import MIGRATIONS
from perdure.memory.upkeep.integrity import DIGESTS_RULE
from perdure.memory.upkeep.integrity import RULES as STORE_RULES

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PLACE = re.compile(r"^((?:agent|envs|learners|memory|tests)/[\w/]+\.py):(\w+)(?:\.(\w+))?$")
"""`folder/file.py:name` or `folder/file.py:Class.method`."""
FILE = re.compile(r"^(?:agent|envs|learners|memory|tests|docs|deploy)/[\w./]+\.\w+$")


def prose(page: Path) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub("", page.read_text())


def in_code(page: Path) -> list[str]:
    return CODE.findall(prose(page))


def table(page: Path, header: str) -> list[str]:
    """The rows of the table under this header line, without the ruler."""
    lines = page.read_text().splitlines()
    assert header in lines, f"{page.name} has no table {header}"
    start = lines.index(header) + 2
    return lines[start : next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))]


def row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def check_table(page: Path, header: str, wanted: Sequence[str]) -> None:
    found = table(page, header)
    assert found == list(wanted), f"{page.name}, under {header}, should read:\n" + "\n".join(wanted)


# --- commands ---


def command_lines() -> Iterator[tuple[str, str]]:
    """Every `perdure ...` in a page: whole lines of fenced blocks, with or without `$ `, and inline code."""
    for page in PAGES:
        for _, block in FENCE.findall(page.read_text()):
            for line in block.splitlines():
                if re.match(r"(\$ )?perdure ", line):
                    yield page.name, line.removeprefix("$ ")
        for code in in_code(page):
            if re.match(r"perdure (?!=)", code):
                yield page.name, code


def parse(line: str) -> None:
    """Parse a command line with the real commands, types and required arguments included. A bare command path needs no arguments."""
    words = shlex.split(line.split(" | ")[0].split(" && ")[0], comments=True)[1:]
    command: click.Command = perdure
    context = click.Context(command, info_name="perdure", **command.context_settings)
    while isinstance(command, click.Group):
        if words == ["--help"]:
            return
        _, words, _ = command.make_parser(context).parse_args(words)
        assert words, f"{context.command_path} needs a command"
        name, inner, words = command.resolve_command(context, words)
        assert inner is not None, f"no command {name!r}"
        command, context = inner, click.Context(inner, info_name=name, parent=context)
    if words and words != ["--help"]:
        command.make_context(command.name, words, parent=context.parent)


@pytest.mark.parametrize(("page", "line"), sorted(set(command_lines())))
def test_command_lines_parse(page: str, line: str) -> None:
    try:
        parse(line)
    except click.UsageError as error:
        pytest.fail(f"{page}: `{line}`: {error.format_message()}")


@pytest.mark.parametrize(
    "line", ["perdure lern grpo", "perdure task ad ENV", "perdure run --cycle", "perdure run --cycles x", "perdure version"]
)
def test_command_lines_that_do_not_exist_are_found(line: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        parse(line)


def test_every_command_is_documented() -> None:
    """Each has a row with an example, which says what the command's own help says first."""
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table(ROOT / "docs/commands.md", "| command | does |")]
    for path, command in commands():
        says = " ".join((command.help or "").split("\n\n")[0].split())
        cells = [does for example, does in rows if f"{example.strip('`')} ".startswith(f"perdure {path} ")]
        assert any(does.startswith(says) for does in cells), f"docs/commands.md needs a row `perdure {path}`: {says}"


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(perdure, **perdure.context_settings)
    for name in perdure.list_commands(context):
        command = perdure.get_command(context, name)
        assert command is not None
        if not isinstance(command, click.Group):
            yield name, command
            continue
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield f"{name} {inner}", found


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {code.split()[1] for page in PAGES for code in in_code(page) if re.fullmatch(r"make [\w-]+", code)}
    assert named
    assert named <= targets


def test_the_readme_takes_one_screen_of_reading() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1000


# --- links and names ---


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as code forges make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT), target
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_functions_that_are_named_exist(page: Path) -> None:
    for code in in_code(page):
        place = PLACE.match(code)
        if place:
            defined = definitions(ROOT / place[1])
            assert place[2] in defined, code
            assert place[3] is None or place[3] in defined[place[2]], code
        elif FILE.match(code):
            assert (ROOT / code).is_file(), code


@cache
def definitions(file: Path) -> dict[str, frozenset[str]]:
    """The names that a module defines, each with what it has inside where it is a class."""
    found: dict[str, frozenset[str]] = {}
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.FunctionDef(name=name):
                found[name] = frozenset()
            case ast.ClassDef(name=name, body=body):
                found[name] = frozenset(inner.name for inner in body if isinstance(inner, ast.FunctionDef))
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = frozenset()
    return found


# --- tables ---


def test_every_setting_is_documented() -> None:
    wanted = []
    for one in settings(LoadedConfig(config=Config(), origins=_Default(), path=None)):
        if not one.key.startswith(f"{OPTIONS}."):
            default = "eight; six without Reasoning Gym" if one.key == "stream.environments" else f"`{json.dumps(one.value)}`"
            wanted.append(row(f"`{one.key}`", default, one.description))
    check_table(ROOT / "docs/settings.md", "| key | default | meaning |", wanted)


def test_every_key_of_a_stage_is_documented() -> None:
    page = ROOT / "docs/stream.md"
    first, second = page.read_text().split("An environment in it can be a table:")
    for text, model in ((first, StageSection), (second, StageEnvironment)):
        wanted = ["| key | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            default = "-" if field.is_required() else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
            wanted.append(row(f"`{name}`", default, field.description))
        assert "\n".join([*wanted, ""]) in text, "\n".join(wanted)
    assert [line.split("`")[1] for line in table(page, "| order | what comes next |")] == list(get_args(StageOrder))


def test_every_key_of_a_study_file_is_documented() -> None:
    sections: dict[str, type[Section]] = {
        "study": AboutSection,
        "grid": GridSection,
        "learners.NAME": ArmLearner,
        "helpers.NAME": ArmHelper,
        "streams.NAME": StagedStream,
        "measure": MeasureSection,
        "pilots": PilotSection,
        "match": MatchSection,
        "claims": ClaimSection,
    }
    assert {name.split(".")[0] for name in sections} | {"home", "options"} == set(GridFile.model_fields)
    wanted = []
    for section, model in sections.items():
        for name, field in model.model_fields.items():
            default = "-" if field.is_required() else f"`{json.dumps(field.get_default(call_default_factory=True))}`"
            wanted.append(row(f"`{section}.{name}`", default, field.description))
    check_table(ROOT / "docs/studies.md", "| key | default | meaning |", wanted)


def test_every_option_of_the_learners_is_documented() -> None:
    wanted = [row(f"`{entry.name}`", f"`{entry.default}`", entry.meaning) for entry in option_entries()]
    check_table(ROOT / "docs/learners-reference.md", "| option | default | meaning |", wanted)
    text = prose(ROOT / "docs/learners.md")
    assert all(f"**{name}**" in text for name in OWN)


def test_every_diagnostic_is_documented() -> None:
    keys = {*update_document(Update(update=1)), *(f"{name}_loss" for name in ("ewc", "lwf", "olora", "distillation"))}
    rows = " ".join(table(ROOT / "docs/learners-reference.md", "| name | meaning | look at it when |"))
    assert {key for key in keys if f"`{key}`" not in rows} == set()


def test_the_profiles_of_the_gate_are_documented() -> None:
    wanted = [row(f"`{name}`", f"{one.pool_margin:.2f}"[1:], f"{one.task_margin:.2f}"[1:], one.nmax) for name, one in PROFILES.items()]
    check_table(ROOT / "docs/learning.md", "| profile | pool margin | task margin | rounds at most |", wanted)


def test_every_environment_and_its_options_are_documented() -> None:
    page = ROOT / "docs/environments.md"
    wanted = [
        row(f"`{one.name}`", one.summary, ", ".join(f"`{option.name}={option.default}`" for option in one.options))
        for one in listings()
        if one.name.startswith("perdure:")
    ]
    check_table(page, "| environment | what is asked | options |", wanted)
    shown = [line.split(" | ")[:2] for line in table(page, "| option | default | meaning |")]
    defaults = {option.name: '""' if option.default == "" else option.default for option in as_options(COMMON)}
    assert shown == [[f"| `{name}`", f"`{default}`"] for name, default in defaults.items()]
    assert len(shown) == len(COMMON)
    assert [line.split("`")[1] for line in table(page, "| source | example | what it is |")] == list(SOURCES)


def test_every_rule_of_the_check_is_documented() -> None:
    rows = table(ROOT / "docs/environments.md", "| rule | looks for | because |")
    assert {line.split("`")[1] for line in rows} == {*RULES, ELSEWHERE, FITS}


def test_every_rule_of_the_check_of_the_store_is_documented() -> None:
    rules = [rule.__name__.strip("_").replace("_", "-") for rule in STORE_RULES]
    assert [line.split("`")[1] for line in table(ROOT / "docs/store.md", "| rule | looks for |")] == [*rules, DIGESTS_RULE, TOKENS_RULE]


def test_every_column_of_an_export_is_documented() -> None:
    rows = table(ROOT / "docs/store.md", "| column | type | meaning |")
    assert [name for line in rows for name in CODE.findall(line.split(" | ")[0])] == document_schema().names
    (purpose,) = [line for line in rows if line.startswith("| `purpose`")]
    assert all(name in purpose for name in get_args(Purpose))
    for name in ("turns", "batches"):
        (line,) = [line for line in rows if line.startswith(f"| `{name}`")]
        assert CODE.findall(line)[1:] == [field.name for field in document_schema().field(name).type.value_type]


def test_every_table_of_the_store_is_documented() -> None:
    tables = re.findall(r"^CREATE TABLE (?:IF NOT EXISTS )?(\w+)", "\n".join(MIGRATIONS), re.MULTILINE)
    page = ROOT / "docs/architecture.md"
    assert {line.split("`")[1] for line in table(page, "| table | a row is |")} == set(tables)
    for line in table(page, "| step | where | tables it writes |"):
        assert set(CODE.findall(line.split(" | ")[-1])) <= set(tables), line


def test_every_room_is_described() -> None:
    rooms = {
        str(file.parent.relative_to(ROOT))
        for folder in ("agent", "envs", "learners", "memory")
        for file in (ROOT / folder).rglob("__init__.py")
    }
    rows = [line.split("`")[1] for line in table(ROOT / "docs/architecture.md", "| room | what is in it |")]
    assert sorted(rows) == sorted(rooms)


def test_the_picture_is_drawn_from_its_numbers() -> None:
    docs = ROOT / "docs"
    draw = runpy.run_path(str(docs / "picture.py"))["draw"]
    assert draw(json.loads((docs / "picture.json").read_text())) == (docs / "picture.svg").read_text(), "run python docs/picture.py"


class _Default(dict[str, str]):
    """Every setting comes from its default."""

    def __missing__(self, key: str) -> str:
        return "default"


# --- the examples ---


@pytest.mark.processes
def test_the_environment_in_the_readme_keeps_every_rule(tmp_path: Path) -> None:
    ((_, code),) = [block for block in FENCE.findall((ROOT / "README.md").read_text()) if block[0] == "python"]
    (tmp_path / "prices.py").write_text(code)
    command = [sys.executable, "-m", "perdure", "env", "check", "py:prices:Prices?goods=4&shots=3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"ok": True, "findings": []}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("py:moved:Moved", []),
        ("py:lax:Moved", [("has-a-floor", "an echo of the observation succeeds in 20 of 20 episodes")]),
        ("py:heat:Fahrenheit", [("has-a-floor", "always answering '73' is paid 0.69 of the highest return, with 2 of 20 successes")]),
        ("gym:boxes:store/Boxes-v0?shots=2", []),
    ],
)
def test_the_check_finds_in_the_examples_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: list[tuple[str, str]]
) -> None:
    blocks = [code for language, code in FENCE.findall((ROOT / "docs/environments.md").read_text()) if language == "python"]
    for file, start in (("moved", "class Moved"), ("heat", "class Fahrenheit"), ("boxes", "class Boxes")):
        (code,) = [block for block in blocks if start in block]
        (tmp_path / f"{file}.py").write_text(code)
    strict = (tmp_path / "moved.py").read_text()
    (tmp_path / "lax.py").write_text(strict.replace("action.strip() == self.town", "self.town in action"))
    monkeypatch.syspath_prepend(tmp_path)
    environment = load_here(name)
    findings = [
        finding for rule in ("runs", "passes-gymnasium", "oracle-succeeds", "has-a-floor") for finding in check_rule(environment, rule)
    ]
    assert [(finding.rule, finding.message) for finding in findings] == says
    page = " ".join((ROOT / "docs/environments.md").read_text().split())
    assert all(message in page for _, message in says)
