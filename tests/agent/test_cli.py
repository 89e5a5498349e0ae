"""The command line as a whole: it is quick, documented, and says what went wrong in one line with the right exit code."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
from tests.agent.conftest import ADD, Call
from tests.agent.timing import timed

from perdure.agent.cli import COMMANDS
from perdure.agent.cli import perdure as group
from perdure.agent.commands import panel
from perdure.agent.home import HomeLock
from perdure.agent.show.terminal import rounded, visible
from perdure.learners.option_parsing import option_entries
from perdure.learners.options import OWN
from perdure.memory.schema import DEVELOPMENT_ID
from perdure.memory.store import create_store
from perdure.memory.versions import add_initial

HEAVY = ("torch", "transformers", "gymnasium", "textarena", "sqlite_utils", "pydantic", "apscheduler", "rich", "numpy")


def configure(folder: Path) -> None:
    """A stream of one environment in this process. Those of the default stream have processes of their own, which take a second each."""
    (folder / "perdure.toml").write_text(f"model = 'tiny'\n[stream]\nenvironments = ['{ADD}']\n")


def walk(command: click.Command, path: str, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from walk(inner, f"{path} {name}", click.Context(inner, info_name=name, parent=context))


def all_commands() -> list[tuple[str, click.Command, click.Context]]:
    return list(walk(group, "perdure", click.Context(group, info_name="perdure", **group.context_settings)))


def test_every_command_explains_itself_with_an_example_of_itself() -> None:
    for path, command, _ in all_commands():
        text = command.help or ""
        assert text.strip(), f"{path} has no help"
        assert "Example:" in text, f"{path} has no example"
        example = text.split("Example:")[1]
        wanted = "perdure " if path == "perdure" else path
        assert wanted in example, f"the example of {path} does not show it"
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{path} {option.opts[0]} has no help"


def test_every_listing_has_json() -> None:
    for path, command, _ in all_commands():
        if path.split()[-1] in ("list", "show", "status", "doctor", "check", "probe", "gate", "learn", "import"):
            assert "--json" in [name for option in command.params for name in option.opts], f"{path} has no --json"


def test_examples_are_commands_that_exist_with_options_that_exist() -> None:
    known = {path: command for path, command, _ in all_commands()} | {"perdure panel": panel.show}  # its default
    for _, command, _ in all_commands():
        for line in (command.help or "").split("Example:")[-1].splitlines():
            words = line.strip().split(" | ")[0].split(" && ")[0].split()
            if words[:1] != ["perdure"] or not words[1:] or words[1].startswith("--"):
                continue
            path = " ".join(words[:3]) if " ".join(words[:3]) in known else " ".join(words[:2])
            assert path in known, line
            options = {name for option in known[path].params for name in option.opts}
            assert {word for word in words if word.startswith("--")} <= options, line


@pytest.mark.processes
def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom perdure.agent.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    taken = []
    for _ in range(4):
        done, seconds = timed([sys.executable, "-c", code])
        taken.append(seconds)
        assert (done.returncode, done.stderr.strip()) == (0, "[]")
    assert min(taken) < 1.0
    for name in COMMANDS:
        assert f"  {name} " in done.stdout


@pytest.mark.processes
def test_a_rollback_loads_nothing_heavy(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        add_initial(store, "model", "hash")
    words = ["--home", str(tmp_path / "home"), "version", "rollback", "--reason", "none"]
    code = (
        f"import sys\nfrom perdure.agent.cli import main\ntry:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done, _ = timed([sys.executable, "-c", code])
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "did you mean 'run'?"),
        (["task", "lst"], "Did you mean 'list'? See `perdure task --help`."),
        (["task", "add"], "Missing argument 'ENV'. See `perdure task add --help`."),
        (["task", "add", "perdure:largest-numbr"], "did you mean perdure:largest-number"),
        (["task", "add", "nothing"], "a name is SOURCE:ID"),
        (["task", "add", ADD, "--seed", str(2**31)], "reserved for the gate and probes, which are never learned from"),
        (["task", "add", ADD, "--seed", "-1"], "seeds of tasks are 0 to"),
        (["task", "add", ADD, "--seed", str(2**30 - 1), "--count", "2"], "not 1073741823 to 1073741824"),
        (["task", "add", ADD, "--count", "0"], "0 is not in the range"),
        (["task", "list"], "no store in"),
        (["status"], "no store in"),
        (["episode", "show", "LAST"], "no store in"),
        (["episode", "reward", "1", "0.5"], "Missing option '--source'"),
        (["episode", "reward", "1", "--source", "anna"], "Give an episode and its reward, or --file."),
        (["episode", "reward", "1", "2", "--file", "f", "--source", "anna"], "Give an episode and its reward, or --file."),
        (["episode", "reward", "1", "good", "--source", "anna"], "'good' is not a valid float"),
        (["version", "rollback"], "Missing option '--reason'"),
        (["learn", "grop", "--target", ADD], "did you mean grpo?"),
        (["learn", "grpo", "--target", "perdure:adda"], "did you mean perdure:add"),
        (["learn", "grpo", "--target", ADD, "--option", "updates"], "write NAME=VALUE"),
        (["learn", "grpo", "--target", ADD, "--option", "updates=0"], "option updates='0'"),
        (["learn", "grpo", "--target", ADD, "--option", "x=1"], "no option 'x'"),
        (["learn", "sft", "--option", "variant=dapo"], "option 'variant' belongs to grpo: sft does not read it"),
        (["learn", "grpo", "--target", ADD, "--option", "lr=.1", "--option", "lr=.2"], "given twice"),
        (["learn", "grpo", "--config", "none.toml"], "no configuration"),
        (["gate"], "Give the version to be gated, or --self-test"),
        (["gate", "v1", "--self-test"], "Give the version to be gated, or --self-test"),
        (["gate", "v1", "--profile", "lax"], "'lax' is not one of"),
        (["env", "check", "perdure:addd"], "did you mean perdure:add"),
        (["env", "play", "perdure:add?x=1"], "option"),
        (["version", "import", "nowhere"], "nowhere is no folder"),
        (["--home"], "requires an argument"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing_behind(perdure: Call, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = perdure(*arguments)
    assert done.code == 2, done.err
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["version", "show", "v9"], "no version 'v9'; `perdure version list`"),
        (["version", "promote", "v3", "--reason", "r"], "v3 was rejected and never serves"),
        (["version", "promote", "v1", "--reason", "r"], "v1 serves already"),
        (["version", "promote", "v2", "--reason", " "], "say why with --reason"),
        (["version", "rollback", "v2", "--reason", "r"], "v2 is candidate and never served"),
        (["version", "pin", "v9"], "no version 'v9'"),
        (["episode", "show", "99"], "no episode 99; the latest is 1"),
        (["episode", "show", "--", "-1"], "'-1' is no episode"),
        (["episode", "show", "last'; DROP TABLE episode"], "is no episode"),
        (["episode", "reward", "99", "1", "--source", "anna"], "episode 99 is not in this home"),
        (["episode", "reward", "x", "1", "--source", "anna"], "'x' is no episode"),
        (["episode", "reward", "1", "nan", "--source", "anna"], "the reward of episode 1 is nan: it must be a finite number"),
        (["episode", "reward", "1", "1", "--source", "environment"], "'environment' cannot be a source of rewards"),
        (["episode", "reward", "--file", "none.jsonl", "--source", "anna"], "none.jsonl cannot be read"),
        (["episode", "list", "--env", "perdure:none"], "no environment 'perdure:none' in this home"),
        (["episode", "list", "--version", "v9"], "no version 'v9'"),
        (["gate", "v9"], "no version 'v9'"),
        (["gate", "v1", "--target", ADD], "v1 serves: there is no gain over itself to show"),
        (["probe", "v9"], "no version 'v9'"),
        (["learn", "grpo", "--target", ADD, "--start", "v9"], "no version 'v9'"),
        (["learn", "grpo"], "no target was chosen"),
    ],
)
def test_an_unknown_name_is_one_line(perdure: Call, home: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    configure(tmp_path)
    with create_store(home) as store:
        jobs = store.rows("SELECT count(*) FROM job")[0][0]
    done = perdure(*arguments)
    assert done.code == 2, done.err
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    with create_store(home) as store:
        assert store.rows("SELECT count(*) FROM job")[0][0] == jobs


def test_a_broken_configuration_stops_every_command_that_reads_it(perdure: Call, tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text("[play]\nwdth = 1\n")
    for arguments in (["config", "show"], ["run"], ["learn", "grpo"], ["probe"], ["gate", "v1"], ["task", "add", ADD]):
        done = perdure(*arguments)
        assert done.code == 2
        assert "did you mean play.width?" in done.err
    assert [file.name for file in tmp_path.iterdir()] == ["perdure.toml"]


def test_a_second_daemon_is_refused(perdure: Call, home: Path, tmp_path: Path) -> None:
    configure(tmp_path)
    with HomeLock(home):
        done = perdure("run", "--tasks", "1")
    assert done.code == 2
    assert f"in use by process {os.getpid()}: stop that one first" in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", [["status"], ["run"], ["task", "add", ADD], ["probe"], ["version", "list"]])
def test_homes_that_are_not_ours_are_refused(perdure: Call, tmp_path: Path, arguments: list[str]) -> None:
    configure(tmp_path)
    home = tmp_path / ".perdure"
    home.mkdir()
    with sqlite3.connect(home / "perdure.db") as conn:
        conn.execute("CREATE TABLE theirs (x)")
    conn.close()
    done = perdure(*arguments)
    assert done.code == 2
    assert "another program's database" in done.err
    assert [file.name for file in home.iterdir()] == ["perdure.db"]
    (home / "perdure.db").write_text("a letter, not a database, of some length" * 100)
    done = perdure(*arguments)
    assert done.code == 2
    assert "is not a database" in done.err
    (home / "perdure.db").unlink()
    with create_store(home) as store:
        store.db.execute("PRAGMA user_version = 99")
    done = perdure(*arguments)
    assert done.code == 2
    assert "a newer Perdure wrote it" in done.err
    with closing(sqlite3.connect(home / "perdure.db")) as conn:
        conn.execute(f"PRAGMA application_id = {DEVELOPMENT_ID}")
    done = perdure(*arguments)
    assert done.code == 2
    assert "was made by an unreleased development version of Perdure and cannot be opened" in done.err


@pytest.mark.processes
@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere, and setpriv is not here")
@pytest.mark.parametrize("arguments", [["run"], ["task", "add", ADD], ["version", "rollback", "--reason", "r"], ["pause", "--reason", "r"]])
def test_a_read_only_home_is_said_to_be_one(process: Call, home: Path, arguments: list[str]) -> None:
    before = sorted(home.rglob("*"))
    for path in (home, *before):
        path.chmod(0o555 if path.is_dir() else 0o444)
    powerless = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner") if os.getuid() == 0 else ()
    done = process(*arguments, prefix=powerless)
    for path in (home, *before):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.code == 3, done.err
    assert "cannot write to" in done.err
    assert "--home" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert sorted(home.rglob("*")) == before


@pytest.mark.processes
@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere, and setpriv is not here")
def test_found_a_read_only_home_can_be_read(process: Call, home: Path, tmp_path: Path) -> None:
    before = sorted(home.rglob("*"))
    for path in (home, *before):
        path.chmod(0o555 if path.is_dir() else 0o444)
    powerless = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner") if os.getuid() == 0 else ()
    commands = (
        ("status",),
        ("episode", "show", "LAST"),
        ("version", "list"),
        ("job", "list"),
        ("store", "check", "--no-tokens"),
        ("store", "export", "--format", "jsonl", "--out", str(tmp_path / "out.jsonl")),
        ("store", "backup", str(tmp_path / "copy.db")),
    )
    done = {command: process(*command, prefix=powerless) for command in commands}
    for path in (home, *before):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert {command: (one.code, one.err) for command, one in done.items() if one.code not in (0, 1) or "cannot" in one.err} == {}
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "copy.db").stat().st_size > 0
    assert sorted(home.rglob("*")) == before


def test_the_home_may_be_named_before_or_after_the_command_or_in_the_environment(
    perdure: Call, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = home.rename(tmp_path / "other")
    assert perdure("status").code == 2
    assert perdure("--home", str(other), "status").code == 0
    assert perdure("status", "--home", str(other)).code == 0
    monkeypatch.setenv("PERDURE_HOME", str(other))
    assert perdure("version", "list").code == 0


@pytest.mark.processes
def test_a_reader_that_goes_away_is_no_error(home: Path) -> None:
    command = [sys.executable, "-m", "perdure", "--home", str(home), "env", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait() == 0


def test_a_home_that_is_a_file_is_named(perdure: Call, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    for name in ("letter", "letter/home"):
        done = perdure("--home", name, "run")
        assert done.code == 2
        assert "letter is a file; name a folder with --home" in done.err
    assert [file.name for file in tmp_path.iterdir()] == ["letter"]


def test_a_home_is_for_its_user_only(perdure: Call, tmp_path: Path) -> None:
    assert perdure("--home", "deep/home", "task", "add", ADD).code == 0
    assert (tmp_path / "deep" / "home").stat().st_mode & 0o077 == 0


@pytest.mark.processes
def test_output_that_is_closed_or_full_is_no_bug(home: Path) -> None:
    command = f"{sys.executable} -m perdure --home {home} version list"
    closed = subprocess.run(["sh", "-c", f"{command} >&-"], stderr=subprocess.PIPE, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
    if Path("/dev/full").exists():
        full = subprocess.run(["sh", "-c", f"{command} >/dev/full"], stderr=subprocess.PIPE, text=True)
        assert full.returncode == 3
        assert full.stderr.startswith("perdure: no space is left")


def test_a_bug_is_one_line_and_its_traceback_is_kept(perdure: Call, home: Path) -> None:
    with create_store(home) as store:
        store.db.execute("ALTER TABLE task RENAME COLUMN seed TO seeed")
    done = perdure("task", "list")
    assert done.code == 3
    assert "This is a bug in Perdure" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "Traceback" in (home / "logs" / "errors.log").read_text()


def test_without_a_command_the_help_is_shown_as_wrong_use(perdure: Call) -> None:
    for arguments in ([], ["task"]):
        done = perdure(*arguments)
        assert done.code == 2
        assert "Usage: perdure" in done.err
        assert done.out == ""


def test_init_writes_a_configuration_that_loads_and_never_over_one(perdure: Call, tmp_path: Path) -> None:
    done = perdure("init", "agent")
    assert done.code == 0
    path = tmp_path / "agent" / "perdure.toml"
    assert path.is_file()
    assert perdure("config", "show", "--config", str(path)).code == 0
    path.write_text("seed = 4\n")
    done = perdure("init", "agent")
    assert done.code == 2
    assert "exists already" in done.err
    assert path.read_text() == "seed = 4\n"
    (tmp_path / "file").write_text("")
    assert perdure("init", "file").code == 2


def test_config_show_prints_one_document(perdure: Call, tmp_path: Path) -> None:
    (tmp_path / "perdure.toml").write_text("seed = 4\n")
    found = {row["key"]: row for row in json.loads(perdure("config", "show", "--json").out)}
    assert found["seed"]["value"] == 4
    assert found["seed"]["origin"] == "perdure.toml"
    assert found["learn.options.updates"]["origin"] == "default"


def test_help_of_learn_has_every_learner_and_every_option_once(perdure: Call) -> None:
    text = perdure("learn", "--help").out
    assert all(name in text.split("Options:")[0] for name in OWN)
    for entry in option_entries():
        assert text.count(f"  {entry.name}=") == 1
        assert entry.section in " ".join(text.split())


def test_numbers_have_three_digits_or_all_before_the_point() -> None:
    shown = {
        0.0005: "0.0005",
        0.12345: "0.123",
        999.5: "1000",
        999.4: "999",
        1234.56: "1235",
        123456.7: "123457",
        math.inf: "inf",
        -2000.4: "-2000",
    }
    assert {value: rounded(value) for value in shown} == shown


def test_control_characters_are_made_visible() -> None:
    assert visible("a\x1b[31m\n\tb\u202ec\ud800") == "a\\x1b[31m\n\tb\\u202ec\\ud800"
