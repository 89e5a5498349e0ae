from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from perdure.envs.common_options import COMMON
from perdure.envs.listings import builtin_names, listings
from perdure.envs.registry import load
from perdure.envs.seeds import SPLITS
from perdure.envs.sources.packages import PACKAGES
from perdure.memory.errors import InputError, UnknownError


def test_there_are_at_least_eight_builtins_and_each_is_listed_with_its_options() -> None:
    assert len(builtin_names()) >= 8
    by_name = {listing.name: listing.as_json() for listing in listings()}
    assert set(builtin_names()) <= set(by_name)
    assert by_name["perdure:largest-number"] == {
        "name": "perdure:largest-number",
        "summary": "The largest of several different numbers.",
        "options": [{"name": "numbers", "type": "int", "default": 4}, {"name": "digits", "type": "int", "default": 2}],
        "installed": True,
    }
    assert "shots" in COMMON


def test_sources_are_listed_with_their_remedy_if_they_are_not_installed() -> None:
    by_name = {listing.name: listing for listing in listings()}
    assert by_name["textarena:ID"].installed
    for source, package in PACKAGES.items():
        listing = by_name[f"{source}:ID"]
        assert listing.installed == (find_spec(package.module) is not None)
        assert (package.remedy in listing.summary) == (not listing.installed)


@pytest.mark.processes
def test_listing_imports_no_package_of_a_source() -> None:
    command = "import sys; from perdure.envs.listings import listings; listings(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert {package.module for package in PACKAGES.values()} & set(done.stdout.split()) == {"gymnasium"}


@pytest.mark.processes
@pytest.mark.parametrize("source", [source for source, package in PACKAGES.items() if not package.installed])
def test_a_source_that_is_not_installed_names_the_remedy(source: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"is not installed: {PACKAGES[source].remedy}")):
        load(f"{source}:http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("perdure:add", "perdure:add"),
        ("perdure:add?terms=2&highest=20&shots=0", "perdure:add"),
        ("perdure:add?terms=3&highest=9", "perdure:add?highest=9&terms=3"),
        ("perdure:add?highest=9&terms=3", "perdure:add?highest=9&terms=3"),
        ("perdure:add?turn_limit=1&max_tokens=8", "perdure:add"),
        ("perdure:add?threshold=1&shots=2", "perdure:add?shots=2"),
        ("perdure:add?threshold=0.5", "perdure:add?threshold=0.5"),
    ],
)
def test_one_environment_has_one_name(written: str, canonical: str) -> None:
    assert load(written).name == canonical
    assert load(canonical).name == canonical


def test_common_options_set_limits_and_scale() -> None:
    environment = load("perdure:guess-number?turn_limit=2&max_tokens=3&reward_low=-1&reward_high=2&threshold=1.5&step_timeout_s=4")
    limits = (environment.turn_limit, environment.max_tokens, environment.step_timeout_s)
    assert (*limits, environment.reward_low, environment.reward_high, environment.threshold) == (2, 3, 4.0, -1.0, 2.0, 1.5)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("perdure:largst-number", "did you mean perdure:largest-number"),
        ("add", "a name is SOURCE:ID, with a source of gem, gym, openenv, perdure"),
        ("perdure:", "a name is SOURCE:ID"),
        ("elsewhere:add", "a name is SOURCE:ID"),
        ("py:no.such.module:Class", "cannot be imported"),
        ("py:tests.envs.faulty:Nothing", "cannot be imported"),
        ("py:tests.envs.faulty.Counting", "Write two colons: py:tests.envs.faulty:Counting"),
        ("py:faulty", "Write two colons: py:faulty:CLASS"),
        ("plugin:nothing", "no environment of the entry-point group perdure.envs is named 'nothing'"),
    ],
)
def test_an_unknown_name_is_an_unknown_error_that_helps(name: str, message: str) -> None:
    with pytest.raises(UnknownError, match=message):
        load(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("highst=9", "no option is named 'highst'; did you mean highest"),
        ("highest=many", "option highest=many is not of type int"),
        ("highest=9.5", "option highest=9.5 is not of type int"),
        ("highest=true", "option highest=true is not of type int"),
        ("threshold=high", "option threshold=high is not of type float"),
        ("highest=9&highest=10", "option highest is given 2 times"),
        ("highest", "options are written"),
        ("shots=-1", "shots=-1 must be a whole number from 0 to 100"),
        ("shots=1000000", "shots=1000000 must be a whole number from 0 to 100"),
        ("turn_limit=0", "turn_limit=0 must be a whole number from 1"),
        ("threshold=NaN", "threshold=nan must be a finite number"),
        ("reward_low=2", "must be below reward_high"),
        ("step_timeout_s=0", "must be above 0"),
    ],
)
def test_a_wrong_option_is_an_input_error_that_helps(options: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(f"perdure:add?{options}")


def test_shots_are_solved_train_tasks_with_different_answers() -> None:
    examples = load("perdure:even-odd?shots=2").examples
    assert {answer for _, answer in examples} == {"even", "odd"}
    assert load("perdure:add?shots=3").examples[:2] == load("perdure:add?shots=2").examples
    environment = load("perdure:add")
    probes = [environment.make().reset(seed=seed)[0] for seed in SPLITS["probe"][:200]]
    assert not {observation for observation, _ in load("perdure:add?shots=5").examples} & set(probes)


def test_a_shot_of_several_turns_is_one_whole_episode() -> None:
    assert load("perdure:door-code?shots=1").examples[0][1] == "ok"
    assert len(load("perdure:spell-word?shots=2").examples) == 6


@pytest.mark.processes
def test_shots_need_an_oracle_that_succeeds() -> None:
    with pytest.raises(InputError, match="no oracle"):
        load("py:tests.envs.faulty:PaysForTrying?shots=1")
    with pytest.raises(InputError, match="does not solve"):
        load("py:tests.envs.faulty:WrongOracle?shots=1")
    with pytest.raises(InputError, match="only 1 different"):
        load("py:tests.envs.faulty:OneTask?shots=2")


@pytest.mark.processes
def test_a_class_by_its_path_has_its_own_options_and_limits() -> None:
    environment = load("py:tests.envs.faulty:Counting?reward=0.5")
    assert environment.name == "py:tests.envs.faulty:Counting?reward=0.5"
    assert (environment.instructions, environment.turn_limit) == ("Count.", 5)
    assert load("py:tests.envs.faulty:Counting?reward=1").name == "py:tests.envs.faulty:Counting"


@pytest.mark.processes
def test_what_is_no_environment_is_refused() -> None:
    with pytest.raises(InputError, match="is not an environment"):
        load("py:collections:Counter")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ExitsWhenMade", "cannot be made: SystemExit: 4"),
        ("ManyTurns", "turn_limit='many' must be a whole number"),
        ("NoLow", "reward_low=None must be a finite number"),
    ],
)
def test_what_an_environment_does_or_says_wrong_before_it_begins_is_told(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(f"py:tests.envs.faulty:{name}")


@pytest.mark.processes
def test_a_failing_close_does_not_keep_an_environment_from_being_loaded() -> None:
    assert load("py:tests.envs.faulty:FailsAtClose").turn_limit == 5


@pytest.mark.processes
@pytest.mark.parametrize("text", ["raise NameError('no')", "def (", "raise SystemExit(3)"])
def test_a_module_that_fails_when_it_is_imported_is_named(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fails_when_imported.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"py:fails_when_imported:X cannot be imported: (NameError|SyntaxError|SystemExit)"):
        load("py:fails_when_imported:X")


@pytest.mark.processes
def test_an_installed_package_offers_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "acme-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[perdure.envs]\ncounting = tests.envs.faulty:Counting\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load("plugin:counting?reward=0.5").name == "plugin:counting?reward=0.5"
    assert [listing.name for listing in listings()][-1] == "plugin:counting"
    with pytest.raises(UnknownError, match="did you mean counting"):
        load("plugin:conting")
