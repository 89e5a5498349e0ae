"""Commands on a damaged store: each ends with an exit code and a line that says what is damaged, and never by an error of its own."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.agent.conftest import ADD, Call
from tests.memory.damage import Damage, damages, in_one_file, put
from tests.memory.everything import fill

from perdure.agent.bench.store_queries import COMMANDS, DAEMON
from perdure.memory.errors import PerdureError
from perdure.memory.store import create_store, open_store

GOOD = "good.db"
SHOWN = (
    "status",
    "status --check",
    "report",
    "task list",
    "job list",
    "job show 1",
    "job show 2",
    "env list",
    "episode list",
    f"episode list --env {ADD}",
    "episode show 3",
    "episode show last",
    "version list",
    "version show v1",
    "store check",
    "store prune --dry-run --keep-episodes 3",
)
CHANGING = (
    f"task add {ADD}",
    "job cancel 3",
    "episode reward 1 0.5 --source anna",
    "version pin v1",
    "version promote v3 --reason test",
    "version rollback --reason test",
    "version gc",
    f"env retire {ADD}",
    "pause --reason test",
    "store export --out out.jsonl --format jsonl --force",
    "store export --out out.parquet --force",
    "store backup copy.db --force",
    "store prune --keep-episodes 3",
)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with everything in its store, and a copy of the store beside it."""
    home = tmp_path_factory.mktemp("damaged") / "home"
    with create_store(home) as store:
        fill(store)
    (home.parent / GOOD).write_bytes(in_one_file(home))
    return home


def test_fuzz_the_commands_are_commands(perdure: Call, closed: Path, tmp_path: Path) -> None:
    home, good = closed, (closed.parent / GOOD).read_bytes()
    configure(tmp_path)
    for command in SHOWN + CHANGING:
        put(home, good)
        done = perdure("--home", str(home), *command.split())
        assert done.code in (0, 1), (command, done.err)


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    damages("bit", "bit", "zeros", "ones", "another file", "misplaced page", "cut"),
    st.lists(st.sampled_from(SHOWN + CHANGING), min_size=1, max_size=4),
    st.lists(st.sampled_from(sorted(COMMANDS | DAEMON)), max_size=3),
)
def test_fuzz_a_damaged_store_is_named_by_every_command(
    perdure: Call, closed: Path, tmp_path: Path, damage: Damage, commands: list[str], questions: list[str]
) -> None:
    home, good = closed, (closed.parent / GOOD).read_bytes()
    configure(tmp_path)
    put(home, damage.done_to(good))
    for command in commands:
        done = perdure("--home", str(home), *command.split())
        assert done.code in (0, 1, 2, 3), command
        assert "bug in Perdure" not in done.err, (command, done.err)
        assert "Traceback" not in done.err, (command, done.err)
    with suppress(PerdureError), open_store(home) as store:
        for question in questions:
            with suppress(PerdureError):
                (COMMANDS | DAEMON)[question](store)


def configure(folder: Path) -> None:
    (folder / "perdure.toml").write_text(f"model = 'tiny'\nstream.environments = ['{ADD}']\n")
