"""A study's file says clearly what is wrong with it, and its grid is crossed as it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.studies.grid.small_grids import PLANNED, write

from perdure.agent.studies.catalogue import STUDIES, StudySettings, prepare_study
from perdure.agent.studies.cells import Cell, CellResult
from perdure.agent.studies.grid.grid_arms import arms, check_grid, environments, in_order, runs
from perdure.agent.studies.grid.grid_file import FILES, SMALL, GridFile, built_in, built_in_names, read_grid_file
from perdure.agent.studies.grid.retaining_study import retaining_study
from perdure.agent.studies.grid.stream_study import stream_study
from perdure.agent.studies.grid.table_rows import CHECKPOINT, SAMPLED_DEV, RowPlace, task_rows
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document


def read(folder: Path, text: str) -> None:
    check_grid(read_grid_file(write(folder, text)))


def test_a_grid_that_is_right_is_read(tmp_path: Path) -> None:
    file = read_grid_file(write(tmp_path, PLANNED))
    check_grid(file)
    assert [arm.name for arm in arms(file, "addition")] == ["sft", "grpo", "trace-sft"]
    assert environments(file) == ["perdure:add?shots=3", "perdure:compare?shots=3", "perdure:even-odd?shots=3"]


@pytest.mark.parametrize(
    ("wrong", "right", "says"),
    [
        ("check_points = [3, 6]", "checkpoints = [3, 6]", "no key is named 'measure.check_points'; did you mean checkpoints?"),
        ("[pilot]\nrates", "[pilots]\nrates", "no key is named 'pilot'; did you mean pilots?"),
        ("trace_of", "traces_of", "no key is named 'learners.trace-sft.trace_of'; did you mean traces_of?"),
        ("seed = [0, 1, 2]", "seeds = [0, 1, 2]", "'grid.seed'; did you mean seeds?"),
        ("updated = 6", "updates = 6", "updates"),
        ('learners = ["sft", "grbo", "trace-sft"]', 'learners = ["sft", "grpo", "trace-sft"]', "names 'grbo'.* did you mean grpo?"),
        ('learner = "trace-stf"', 'learner = "trace-sft"', "no learner 'trace-stf'.* did you mean trace-sft"),
        ('streams = ["adding"]', 'streams = ["addition"]', "names 'adding'.* did you mean addition?"),
        ("seeds = [2]", "seeds = [100]", "pilots.seeds has 2, which grid.seeds has too"),
        ("checkpoints = [6, 3]", "checkpoints = [3, 6]", r"\[6, 3\] are not rising numbers"),
        ("checkpoints = [3, 9]", "checkpoints = [3, 6]", "checkpoints has 9, and sft makes 6 updates"),
        ('second = "grop"', 'second = "grpo"', "no arm is named 'grop'"),
        ('of = "bwt"\nmore_than', "more_than", "'bwt' is none of drop, panel_drop"),
        ("less_than = 0.0\nmore_than", "more_than", "give more_than or less_than, one of them"),
        ("perdure:ad?shots=3", "perdure:add?shots=3", "perdure:ad"),
        ('"perdure:add?shots=3", "perdure:compare?shots=3"', '"perdure:add?shots=3"', "has one stage"),
        ("[home]\nseed = 3\n[grid]", "[grid]", "home.seed is decided by the study"),
        ("[home]\nmodle = 'x'\n[grid]", "[grid]", "modle: extra inputs are not permitted"),
        ("[options]\ninterpolate = 0.5", "[options]", "interpolate changes only the last update"),
        ("[match]\ntolerance = 0.05\n[pilots]", "[pilots]", "tolerance = 0.05 is more than a third of least = 0.12"),
        ('name = "Planned it"', 'name = "planned"', "study.name = 'Planned it'"),
        ('name = "planned', 'name = "planned"', "is not TOML"),
    ],
)
def test_a_file_that_is_wrong_says_what_and_where(tmp_path: Path, wrong: str, right: str, says: str) -> None:
    assert right in PLANNED
    with pytest.raises(InputError, match=says) as error:
        read(tmp_path, PLANNED.replace(right, wrong, 1))
    assert "\n" not in str(error.value)


def test_arms_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    text = PLANNED.replace('learners = ["sft", "grpo", "trace-sft"]', 'learners = ["sft", "grpo", "grpo-kl"]\nhelpers = ["plain", "kl"]')
    text += '[learners.grpo-kl]\nlearner = "grpo"\n[helpers.kl]\noptions = { kl = 0.05 }\n'
    with pytest.raises(InputError, match=r"'grpo-kl' and 'grpo \+ kl' would share a folder: give one of them another name"):
        read(tmp_path, text)


def test_traces_of_an_arm_that_is_not_run_are_refused(tmp_path: Path) -> None:
    """grpo is for `plain` only."""
    text = PLANNED.replace("streams = [", 'helpers = ["plain", "kl"]\nstreams = [', 1)
    text += '[learners.grpo]\nlearner = "grpo"\nhelpers = ["plain"]\n[helpers.kl]\noptions = { kl = 0.05 }\n'
    with pytest.raises(InputError, match=r"trace-sft \+ kl learns from the traces of grpo \+ kl, which addition does not have"):
        read(tmp_path, text)


def test_a_file_gives_the_room_of_its_cells(tmp_path: Path) -> None:
    """All weights take twice as much, and a GPU each cell for itself."""
    text = PLANNED.replace('name = "planned"', 'name = "planned"\nmemory_gib = 3').replace(
        '["sft", "grpo", "trace-sft"]', '["sft", "grpo"]'
    )
    text = text.replace("[pilots]\nrates = [0.001, 0.002]\nseeds = [100]\n", "").replace("[learners.trace-sft]", "[learners.unused]")
    file = write(tmp_path, text + '[learners.sft]\nlearner = "sft"\noptions = { tuning = "full" }\n')
    study = retaining_study(read_grid_file(file))
    bases = study.cells({})
    made = {cell.name: CellResult(name=cell.name, parameters={}, made_by="", seconds=1.0) for cell in bases}
    room = {cell.name.split(" on ")[0]: cell.memory_gib for cell in study.cells(made)}
    assert (room["base, seed 0"], room["run: sft"], room["run: grpo"]) == (3, 6, 3)
    assert not any(cell.own_process for cell in bases)
    on_gpu = read_grid_file(write(tmp_path, file.read_text() + "[home]\ndevice = 'cuda'\n"))
    assert all(cell.own_process and cell.alone for cell in retaining_study(on_gpu).cells({}))


def test_what_is_no_study_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no study is named 'livs'; did you mean lives"):
        prepare_study("livs", StudySettings())
    with pytest.raises(InputError, match=r"no file .*absent\.toml"):
        prepare_study(str(tmp_path / "absent.toml"), StudySettings())
    with pytest.raises(InputError, match="a file says itself what is done"):
        prepare_study(str(write(tmp_path, PLANNED)), StudySettings(small=True))
    with pytest.raises(InputError, match="what long-stream does is in its file"):
        prepare_study("long-stream", StudySettings(seeds=2))


def all_cells(file: GridFile) -> list[Cell]:
    """Every cell of a study that goes well: each arm gains .1 with every checkpoint, and delivers the first of them."""
    study = stream_study(file) if file.study.kind == "long-stream" else retaining_study(file)
    finished: dict[str, CellResult] = {}
    while left := [cell for cell in study.cells(finished) if cell.name not in finished]:
        for cell in left:
            own, rows = cell.parameters, list[Document]()
            if "known" in own:
                place = RowPlace(arm="base", order="", seed=own["seed"], stage=0)
                rows += task_rows(place, SAMPLED_DEV, {name: {0: 0.2} for name in own["dev"]})
            elif "dev" in own:
                rows += [
                    {"kind": CHECKPOINT, "update": update, "version": "", "means": dict.fromkeys(own["dev"], 0.3 + 0.1 * n)}
                    for n, update in enumerate(own["checkpoints"])
                ]
            finished[cell.name] = CellResult(name=cell.name, parameters=own, made_by="", seconds=1.0, rows=tuple(rows))
    return list(study.cells(finished))


@pytest.mark.parametrize("name", [path.stem for path in sorted(FILES.glob("*.toml"))])
def test_every_file_that_comes_with_perdure_is_right_and_says_how_long_it_takes(name: str) -> None:
    file = read_grid_file(FILES / f"{name}.toml")
    check_grid(file)
    assert file.study.name == name
    assert file.study.hours is not None
    if name.endswith(SMALL):
        assert len(file.grid.seeds) >= 3
        if "model" not in file.home:  # on two cores, by what a lesson and an answer were measured to take
            expected_hours = sum(cell.expected_s for cell in all_cells(file)) / 2 / 3600
            assert expected_hours < 2
            assert expected_hours / 2 < file.study.hours < 2
    if name.startswith(("retaining-by-doing", "family")):
        assert len(environments(file)) - 1 >= 9
    assert list(runs(file))


def test_every_built_in_file_has_a_small_one_and_a_name() -> None:
    for name in built_in_names():
        assert built_in(name, small=True).is_file()
        assert name in STUDIES


def test_helpers_learners_and_the_file_give_options_in_this_order(tmp_path: Path) -> None:
    text = PLANNED.replace('learners = ["sft", "grpo", "trace-sft"]', 'learners = ["grpo", "slow"]\nhelpers = ["plain", "replay"]')
    text += (
        '[learners.slow]\nlearner = "grpo"\noptions = { updates = 9, lr = 0.1 }\n[helpers.replay]\noptions = { lr = 0.2, replay = 0.5 }\n'
    )
    text = text.replace('traces_of = "grpo"', "").replace('first = "sft"', 'first = "slow + replay"')
    file = read_grid_file(write(tmp_path, text))
    check_grid(file)
    found = {arm.name: dict(arm.options) for arm in arms(file, "addition")}
    assert found == {
        "grpo": {"updates": 6},
        "slow": {"updates": 9, "lr": 0.1},
        "grpo + replay": {"updates": 6, "lr": 0.2, "replay": 0.5},
        "slow + replay": {"updates": 9, "lr": 0.2, "replay": 0.5},
    }


def test_orders_are_as_written_reversed_and_drawn() -> None:
    stages = (("a",), ("b",), ("c",), ("d",), ("e",))
    orders = [in_order(stages, n) for n in range(4)]
    assert orders[0] == stages
    assert orders[1] == stages[::-1]
    assert len(set(orders)) == 4
    assert all(sorted(order) == sorted(stages) for order in orders)
    assert in_order(stages, 3) == orders[3]


def test_orders_are_crossed_with_seeds_or_one_each() -> None:
    file = read_grid_file(FILES / "long-stream.toml")
    every = [(run.order, run.seed) for run in runs(file) if run.arm.name == "naive"]
    assert sorted(every) == sorted((f"eight/{n}", seed) for n in range(3) for seed in range(3))
    small = read_grid_file(FILES / "long-stream-small.toml")
    assert [(run.order, run.seed) for run in runs(small) if run.arm.name == "naive"] == [("eight/0", 0), ("eight/1", 1), ("eight/2", 2)]
    assert len({run.training_seed for run in runs(file)}) == 9
