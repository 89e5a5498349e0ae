"""The default environments stay out of a home whose configuration named its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.conftest import ADD, Call

from perdure.agent.commands.learn import _prepared
from perdure.agent.config import Config
from perdure.agent.config_file import LoadedConfig, load_config
from perdure.agent.stream.own_stream import names_no_stream, own_stream, require_own_stream
from perdure.agent.stream.stream_settings import DEFAULT_ENVIRONMENTS, default_environments
from perdure.envs.registry import load_all
from perdure.memory.contracts.orders import ProbeOrder
from perdure.memory.environments import list_environments, register
from perdure.memory.errors import InputError
from perdure.memory.stages import Stage, StageShare, set_stages
from perdure.memory.store import Store, create_store, open_store

DEFAULTS = LoadedConfig(config=Config(), origins={}, path=None)


def known(home: Path) -> list[str]:
    with open_store(home) as store:
        return [row.name for row in list_environments(store)]


def staged(store: Store, *names: str) -> None:
    for name in names:
        register(store, name)
    set_stages(store, [Stage(name="all", environments=tuple(StageShare(name=name) for name in names), members=2)])


@pytest.mark.processes
def test_the_names_of_the_default_ones_are_canonical() -> None:
    """They are compared with names in the store."""
    names = default_environments()
    assert list(names) == [environment.name for environment in load_all(names).values()]


def test_a_configuration_names_no_stream_only_if_it_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_no_stream(load_config())
    for text, none in (
        ("model = 'tiny'\n", True),
        ("[stream]\ntasks_per_round = 2\n", True),
        (f"[stream]\nenvironments = ['{ADD}']\n", False),
        (f"[[stream.stages]]\nname = 'one'\nenvironments = ['{ADD}']\n", False),
        (f"[stream]\nenvironments = ['{DEFAULT_ENVIRONMENTS[0]}']\n", False),
    ):
        (tmp_path / "perdure.toml").write_text(text)
        assert names_no_stream(load_config()) == none, text


def test_a_daemon_without_a_stream_of_its_own_is_refused_by_a_home_that_had_one(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        require_own_stream(store, DEFAULTS)
        staged(store, *DEFAULT_ENVIRONMENTS)
        require_own_stream(store, DEFAULTS)  # the default ones alone: also if a package is installed or removed
        staged(store, ADD)
        with pytest.raises(
            InputError, match=r"named its own environments \(perdure:add\), and here none names any: name that file with --config"
        ):
            require_own_stream(store, DEFAULTS)
        named = LoadedConfig(config=Config.model_validate({"stream": {"environments": [ADD]}}), origins={}, path=None)
        require_own_stream(store, named)


def test_a_command_without_a_stream_of_its_own_takes_that_of_the_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert own_stream(home, DEFAULTS) is None, "a new home"
    with create_store(home) as store:
        assert own_stream(home, DEFAULTS) is None
        register(store, "perdure:copy-word")
        assert own_stream(home, DEFAULTS) == ["perdure:copy-word"]
        staged(store, ADD)
        assert own_stream(home, DEFAULTS) == [ADD]
        staged(store, *DEFAULT_ENVIRONMENTS)
        assert own_stream(home, DEFAULTS) == list(DEFAULT_ENVIRONMENTS)


@pytest.mark.processes
def test_a_daemon_in_another_folder_changes_nothing(perdure: Call, home: Path, tmp_path: Path) -> None:
    with open_store(home) as store:
        staged(store, ADD)
    (tmp_path / "perdure.toml").write_text("model = 'tiny'\n")
    done = perdure("run", "--tasks", "1", "--home", str(home))
    assert (done.code, known(home)) == (2, [ADD])
    assert "named its own environments (perdure:add)" in done.err


@pytest.mark.parametrize("text", ["model = 'tiny'\n", f"model = 'tiny'\n[stream]\nenvironments = ['{ADD}']\n"])
def test_a_job_adds_its_targets_and_its_own_stream_only(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """As `learn`, `gate` and `probe` prepare the home."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perdure.toml").write_text(text)
    with _prepared(home, load_config(), ["perdure:opposite"], ProbeOrder()) as prepared:
        assert (prepared.stream, prepared.targets) == ([ADD], ["perdure:opposite"])
    assert known(home) == [ADD, "perdure:opposite"]


@pytest.mark.processes
def test_a_job_in_a_new_home_begins_the_stream_of_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with _prepared(tmp_path / "home", load_config(), [], ProbeOrder()) as prepared:
        assert prepared.stream == list(default_environments())
