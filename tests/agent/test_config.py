"""The configuration: what is refused, the origins of values, and the template."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perdure.agent.config import Config
from perdure.agent.config_file import load_config, settings, template
from perdure.envs.sandbox.sandbox_settings import Sandbox
from perdure.learners.option_parsing import every_option, option_entries
from perdure.memory.errors import InputError


def write(folder: Path, text: str) -> Path:
    path = folder / "perdure.toml"
    path.write_text(text)
    return path


def test_the_template_sets_every_setting_to_its_default(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, template()))
    assert loaded.config == Config()
    from_default = {key for key, origin in loaded.origins.items() if origin == "default"}
    assert from_default == {"stream.stages", *(f"learn.options.{entry.name}" for entry in option_entries())}


def test_the_stages_of_the_template_stand_in_place_of_its_environments(tmp_path: Path) -> None:
    before, rest = template().split("[stream]\n")
    stages = rest[rest.index("# [[stream.stages]]") : rest.index("\n[learn]")]
    uncommented = "".join(f"{line.removeprefix('# ').removeprefix('#')}\n" for line in stages.splitlines())
    (tmp_path / "both").mkdir()
    both = write(tmp_path / "both", template().replace(stages, uncommented))
    with pytest.raises(InputError, match="environments and stages exclude each other"):
        load_config(both)
    config = load_config(write(tmp_path, before + uncommented)).config
    assert [(stage.name, stage.tasks, stage.order, stage.curriculum) for stage in config.stream.stages] == [
        ("words", 500, "interleaved", False),
        ("for-ever", 0, "shuffled", True),
    ]
    assert "perdure:swap-words?shots=5" in config.stream.names


def test_environments_without_stages_are_one_that_never_ends(tmp_path: Path) -> None:
    (only,) = load_config(write(tmp_path, "[stream]\nenvironments = ['perdure:add', 'perdure:compare']\n")).config.stream.plan
    assert (only.name, only.endless, only.order) == ("all", True, "interleaved")
    assert [one.full_name for one in only.environments] == ["perdure:add", "perdure:compare"]


def test_stages_are_shown_on_one_line_and_with_all_that_they_have(tmp_path: Path) -> None:
    words = "[[stream.stages]]\nname = 'words'\ntasks = 9\nmembers = 4\n"
    path = write(
        tmp_path,
        "[stream]\ntasks_per_round = 2\n" + words + "environments = ['perdure:add', "
        "{name = 'perdure:compare', options = {shots = 3}, weight = 2, tasks = 5}]\n"
        "[[stream.stages]]\nname = 'last'\nenvironments = ['perdure:add']\norder = 'shuffled'\ncurriculum = true\n",
    )
    found = {setting.key: setting for setting in settings(load_config(path))}
    assert str(found["stream.stages"]) == (
        "words (9 tasks, interleaved, 4 members): perdure:add + perdure:compare?shots=3 (weight 2, 5 tasks)"
        " | last (shuffled, curriculum): perdure:add"
    )
    assert found["stream.stages"].as_json()["value"][0] == {
        "name": "words",
        "environments": [
            {"name": "perdure:add", "weight": 1.0, "tasks": 0},
            {"name": "perdure:compare?shots=3", "weight": 2.0, "tasks": 5},
        ],
        "tasks": 9,
        "order": "interleaved",
        "members": 4,
        "curriculum": False,
    }
    assert found["stream.stages"].origin == "perdure.toml"
    assert found["stream.environments"].value == [], "they are not in force"


def test_the_commented_options_of_the_template_are_the_defaults(tmp_path: Path) -> None:
    head, options = template().split("[learn.options]\n")
    set_lines = [line.removeprefix("# ") for line in options.splitlines() if re.match(r"# \w+ = ", line)]
    loaded = load_config(write(tmp_path, head + "[learn.options]\n" + "\n".join(set_lines)))
    assert every_option(loaded.config.learn.options) == every_option({})
    assert len(set_lines) == len(list(option_entries()))


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
    ("text", "message"),
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
        ("[learn.options]\nvarant = 'dapo'", "did you mean variant?"),
        ("[learn.options]\nteacher = 'fast'", "option teacher='fast'"),
        ("[learn.options]\ntuning = 'full'\nolora = 0.1", "tuning=full trains all weights in float32"),
        ("[stream]\nenvironments = []", "stream: environments = [] leaves nothing to play"),
        ("[stream]\nenvironments = 3", "stream.environments = 3: input should be a valid list"),
        ("[stream]\nstages = 3", "stream.stages = 3: input should be a valid list"),
        ("[stream]\nstages = [3]", "stream.stages[0] = 3: input should be a valid table"),
        ("[stream]\nenvironments = ['add']", "'add' is no environment: write SOURCE:ID"),
        ("[stream]\nenvironments = ['perdure:add', 'perdure:add']", "named 2 times"),
        ("[gate]\ncritical = ['perdure:add']", "gate.critical names 'perdure:add', which [stream] does not"),
        ("[gate]\nalpha = 0.5", "gate.alpha = 0.5"),
        ("[gate]\ntemperature = 'hot'", "gate.temperature: 'hot' is neither 'play' nor a number from 0 (greedy) to 10"),
        ("[gate]\ntemperature = -1", "gate.temperature: -1 is neither 'play' nor a number"),
        ("[gate]\nsamples = 0", "gate.samples = 0"),
        ("[gate]\nover_time = 'never'", "gate.over_time = 'never'"),
        ("engine = 'vllm'\n[gate]\ntemperature = 3", "gate.temperature = 3"),
        ("[schedule]\ncron = 'daily'", "write five crontab fields"),
        ("[schedule]\ncron = '99 * * * *'", "write five crontab fields"),
        ("seed = ", "is not TOML"),
        ("seed = 1\nseed = 2", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as refused:
        load_config(path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "sampling"),
    [
        ("", (1.0, 4)),
        ("[play]\ntemperature = 0.5\n[gate]\nsamples = 2", (0.5, 2)),
        ("[gate]\ntemperature = 0.7", (0.7, 4)),
        ("[gate]\ntemperature = 0", (0.0, 1)),
    ],
)
def test_the_gate_samples_as_play_does_unless_it_is_told_otherwise(tmp_path: Path, text: str, sampling: tuple[float, int]) -> None:
    assert load_config(write(tmp_path, text)).config.gate_sampling == sampling


ENDLESS = "[[stream.stages]]\nname = 'a'\nenvironments = ['perdure:add']\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[stream]\nenvironments = ['perdure:add']\n{ENDLESS}", "stream: environments and stages exclude each other"),
        (ENDLESS.replace("name = 'a'\n", ""), "stream.stages[0].name is missing (it says: tasks are counted by it"),
        (ENDLESS.replace("'a'", "''"), "stream.stages[0].name = '': string should have at least 1 character"),
        (ENDLESS + "ordre = 'shuffled'", "no setting is named 'stream.stages[0].ordre'; did you mean stream.stages.order?"),
        (ENDLESS + "zzz = 1", "there are stream.stages.name, stream.stages.environments, "),
        (
            ENDLESS + "order = 'random'",
            "stream.stages[0].order = 'random': input should be 'interleaved', 'shuffled', 'sequential' or 'per",
        ),
        (ENDLESS + "members = 999", "stream.stages[0].members = 999: input should be less than or equal to 256 (it says: episodes of each"),
        (ENDLESS + "curriculum = true", "stage 'a': a curriculum draws at random; it needs order = 'shuffled'"),
        (ENDLESS + ENDLESS.replace("'a'", "'b'"), "stage 'a' never ends, so the next stage never begins"),
        ((ENDLESS + "tasks = 1\n") * 2, "2 stages are named 'a'"),
        (ENDLESS.replace("['perdure:add']", "[]"), "stream.stages[0].environments = []: list should have at least 1 item"),
        (ENDLESS.replace("'perdure:add'", "'add'"), "stream.stages[0].environments[0].name: 'add' is no environment: write SOURCE:ID"),
        (ENDLESS.replace("'perdure:add'", "'perdure:add', 'perdure:add'"), "stage 'a' names 'perdure:add' 2 times"),
        (ENDLESS.replace("'perdure:add'", "{weight = 2}"), "stream.stages[0].environments[0].name is missing"),
        (
            ENDLESS.replace("'perdure:add'", "{name = 'perdure:add', weight = 0}"),
            "environments[0].weight = 0: input should be greater than 0",
        ),
        (ENDLESS.replace("'perdure:add'", "{name = 'perdure:add', weigth = 2}"), "did you mean stream.stages.environments.weight?"),
        (ENDLESS.replace("'perdure:add'", "{name = 'perdure:add', options = {shots = [1]}}"), "option shots = [1] is not a number"),
        (
            ENDLESS.replace("'perdure:add'", "'perdure:add', 'perdure:compare'") + "order = 'sequential'",
            "stage 'a': with order = 'sequential', 'perdure:add' never ends; give it a number of tasks",
        ),
        (ENDLESS + "order = 'permuted'", "stage 'a': with order = 'permuted', 'perdure:add' never ends"),
        (
            ENDLESS.replace("'perdure:add'", "{name = 'perdure:add', weight = 2}") + "order = 'sequential'",
            "stage 'a': weights mean nothing with order = 'sequential'",
        ),
        (
            ENDLESS.replace("'perdure:add'", "{name = 'perdure:add', tasks = 2}") + "tasks = 3",
            "stage 'a' should have 3 tasks, but its environments have only 2",
        ),
    ],
)
def test_contradictory_stages_are_refused(tmp_path: Path, text: str, message: str) -> None:
    test_a_wrong_setting_is_refused_in_one_line_that_names_it(tmp_path, text, message)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`perdure init` writes one"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot read the configuration"):
        load_config(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"model = '\xe9'")
    with pytest.raises(InputError, match="not UTF-8"):
        load_config(tmp_path / "latin.toml")


def test_what_environments_may_do_is_the_same_without_a_configuration() -> None:
    assert Config().allowed() == Sandbox()


def test_a_file_of_demonstrations_is_where_the_command_found_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Config().learner_options("sft", {"demos": "mine.jsonl"})["demos"] == str(tmp_path / "mine.jsonl")
    assert Config().learner_options("sft", {"demos": "oracle"})["demos"] == "oracle"
    assert "demos" not in Config().learner_options("sft")


def test_options_of_other_learners_are_passed_over_in_the_file_and_refused_on_the_command_line(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "[learn.options]\nlr = 0.01\nvariant = 'dapo'\nepochs = 3\n")).config
    assert config.learner_options("grpo", {"kl": "0.1"}) == {"seed": 0, "lr": 0.01, "variant": "dapo", "kl": 0.1}
    assert config.learner_options("sft") == {"seed": 0, "lr": 0.01, "epochs": 3}
    assert config.learner_options("reinforce") == {"seed": 0, "lr": 0.01}
    with pytest.raises(InputError, match="option 'variant' belongs to grpo: sft does not read it; leave it out"):
        config.learner_options("sft", {"variant": "dapo"})
    with pytest.raises(InputError, match="option 'per_task' belongs to iterative-sft, self-sft, trace-sft: grpo does not read it"):
        config.learner_options("grpo", {"per_task": 2})
    with pytest.raises(InputError, match=r"no option 'varant': there are updates, .*; did you mean variant\?"):
        config.learner_options("grpo", {"varant": "dapo"})
