"""The configuration: what is refused, where values come from, and the template."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perdure.agent.config import Config, load_config, settings, template
from perdure.learners.options import LearnOptions, parse_options
from perdure.memory.errors import InputError


def write(folder: Path, text: str) -> Path:
    path = folder / "perdure.toml"
    path.write_text(text)
    return path


def test_the_template_sets_every_setting_to_its_default(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, template()))
    assert loaded.config == Config()
    from_default = {key for key, origin in loaded.origins.items() if origin == "default"}
    assert from_default == {f"learn.options.{name}" for name in LearnOptions.model_fields}


def test_the_commented_options_of_the_template_are_the_defaults(tmp_path: Path) -> None:
    head, options = template().split("[learn.options]\n")
    set_lines = [line.removeprefix("# ") for line in options.splitlines() if re.match(r"# \w+ = ", line)]
    loaded = load_config(write(tmp_path, head + "[learn.options]\n" + "\n".join(set_lines)))
    assert parse_options(loaded.config.learn.options) == parse_options({})
    assert len(set_lines) == len(LearnOptions.model_fields)


def test_every_setting_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for setting in settings(load_config()):
        assert setting.description, setting.key


def test_each_setting_tells_where_it_came_from(tmp_path: Path) -> None:
    path = write(tmp_path, "seed = 3\n[learn]\noptions = {lr = 0.01}\n[stream]\nenvironments = ['perdure:add']\n")
    found = {setting.key: setting for setting in settings(load_config(path))}
    assert {key for key, setting in found.items() if setting.origin == "perdure.toml"} == {
        "seed",
        "learn.options.lr",
        "stream.environments",
    }
    assert found["learn.options.lr"].value == 0.01
    assert found["stream.environments"].value == ["perdure:add"]
    assert found["play.width"].origin == "default"


def test_without_a_file_the_defaults_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_config()
    assert (loaded.config, loaded.path) == (Config(), None)


def test_the_file_of_the_working_folder_is_found_and_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, "seed = 5")
    loaded = load_config()
    assert (loaded.config.seed, loaded.path) == (5, path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[play]\nwdth = 3", "did you mean play.width?"),
        ("zzz = 3", "there are model, seed, device"),
        ("width = 3", "did you mean play.width?"),
        ("[play]\nwidth = 0", "play.width = 0: input should be greater than or equal to 1 (it says: episodes played at once)"),
        ("[play]\nwidth = true", "play.width = True"),
        ("[play]\nwidth = '64'", "play.width = '64'"),
        ("[play]\ntemperature = nan", "play.temperature = nan"),
        ("play = 3", "play = 3: input should be a valid table"),
        ("device = 'tpu'", "device = 'tpu': input should be 'cpu' or 'cuda'"),
        ("seed = -1", "seed = -1"),
        ("[learn]\nlearner = 'grop'", "did you mean grpo?"),
        ("[learn.options]\nupdate = 3", "no option 'update': there are updates"),
        ("[learn.options]\nlr = 'fast'", "option lr='fast'"),
        ("[stream]\nenvironments = []", "stream.environments = []: list should have at least 1 item"),
        ("[stream]\nenvironments = ['add']", "'add' is no environment: write SOURCE:ID"),
        ("[stream]\nenvironments = ['perdure:add', 'perdure:add']", "named 2 times"),
        ("[gate]\ncritical = ['perdure:add']", "gate.critical names 'perdure:add', which stream.environments does not"),
        ("[gate]\nalpha = 0.5", "gate.alpha = 0.5"),
        ("[schedule]\ncron = 'daily'", "write five crontab fields"),
        ("[schedule]\ncron = '99 * * * *'", "write five crontab fields"),
        ("seed = ", "is not TOML"),
        ("seed = 1\nseed = 2", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as refused:
        load_config(path)
    assert said in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`perdure init` writes one"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot read the configuration"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"model = '\xe9'")
    with pytest.raises(InputError, match="not UTF-8"):
        load_config(tmp_path / "latin.toml")
