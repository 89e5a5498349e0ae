"""A study is done cell by cell: nothing twice, nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent.studies.study_cells import (
    DIARY,
    cells_of,
    deadly,
    deadly_beside_another,
    diary,
    failing,
    growing,
    noted,
    own_pid,
    run_here,
    slow,
    study_of,
)

from perdure.agent.control_groups import usable_cores
from perdure.agent.studies.cells import Cell, CellResult, Study
from perdure.agent.studies.local_cells import room_here
from perdure.agent.studies.provenance import made_by
from perdure.agent.studies.study_file import FILE_NAME, open_study, read_study
from perdure.memory.errors import InputError

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.processes  # `made_by` asks git


def run(study: Study, folder: Path, said: list[str] | None = None, at_once: int = 1) -> dict[str, CellResult]:
    with open_study(folder) as file:
        return run_here(study, file, (said if said is not None else []).append, at_once)


def test_finished_cells_are_not_done_again(tmp_path: Path) -> None:
    run(study_of(*cells_of(3)), tmp_path)
    said: list[str] = []
    results = run(study_of(*cells_of(5)), tmp_path, said)
    assert diary(tmp_path) == ["0", "1", "2", "3", "4"]
    assert [row["square"] for result in results.values() for row in result.rows] == [0, 1, 4, 9, 16]
    assert said[0] == "3 cells were finished before"
    assert said[-1].startswith("cell 4 done: 5 of 5 cells")


def test_each_finished_cell_names_the_program_that_made_it(tmp_path: Path) -> None:
    (result,) = run(study_of(*cells_of(1)), tmp_path).values()
    assert result.made_by == made_by()
    clone = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True)
    assert result.made_by == clone.stdout.strip() or result.made_by.startswith("perdure ")


def test_a_cell_that_fails_is_marked_and_the_rest_goes_on_and_the_next_run_tries_it_again(tmp_path: Path) -> None:
    cells = [replace(cells_of(1)[0], work=failing), *cells_of(3)[1:]]
    said: list[str] = []
    results = run(study_of(*cells), tmp_path, said)
    assert results["cell 0"].error == "cell 0 cannot be done yet"
    assert results["cell 0"].rows == ()
    assert results["cell 2"].rows == ({"n": 2, "square": 4},)
    assert "cell 0 failed: cell 0 cannot be done yet" in said
    assert "cannot be done yet" in (tmp_path / "errors.log").read_text()
    (tmp_path / "mended").touch()
    results = run(study_of(*cells), tmp_path)
    assert results["cell 0"].error is None
    assert diary(tmp_path) == ["1", "2"]


def test_later_cells_follow_from_finished_ones(tmp_path: Path) -> None:
    results = run(Study(name="test", cells=growing), tmp_path)
    assert list(results) == [f"cell {k}" for k in range(5)]
    assert sorted(diary(tmp_path)) == ["0", "1", "2", "3", "4"]


def test_several_cells_are_done_at_once(tmp_path: Path) -> None:
    results = run(study_of(*cells_of(12, slow)), tmp_path, at_once=2)
    assert len(results) == 12
    assert sorted(map(int, diary(tmp_path))) == list(range(12))
    assert read_study(tmp_path) == results


def test_a_cell_that_kills_its_process_has_failed_and_the_rest_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    results = run(study_of(*cells_of(6, deadly)), tmp_path, said, at_once=2)
    errors = {name: result.error for name, result in results.items() if result.error is not None}
    assert list(errors) == ["cell 1", "cell 3", "cell 5"]
    assert all(error.startswith("its process died twice") for error in errors.values())
    assert [results[f"cell {n}"].rows for n in (0, 2, 4)] == [({"n": n, "square": n * n},) for n in (0, 2, 4)]
    (tmp_path / "mended").touch()
    results = run(study_of(*cells_of(6, deadly)), tmp_path, at_once=2)
    assert not any(result.error for result in results.values())


def test_cells_that_only_fit_one_at_a_time_are_done_one_at_a_time(tmp_path: Path) -> None:
    results = run(study_of(*cells_of(3, deadly_beside_another)), tmp_path, at_once=2)
    assert {name: result.error for name, result in results.items()} == {"cell 0": None, "cell 1": None, "cell 2": None}


def test_a_cell_may_have_a_process_of_its_own(tmp_path: Path) -> None:
    cells = [replace(cell, alone=True, own_process=cell.name == "cell 1") for cell in cells_of(2, own_pid)]
    results = run(study_of(*cells), tmp_path)
    assert results["cell 0"].rows == ({"pid": os.getpid()},)
    assert results["cell 1"].rows != ({"pid": os.getpid()},)


def test_superseded_cells_stay_in_the_file_and_are_read_no_more(tmp_path: Path) -> None:
    run(study_of(*cells_of(3)), tmp_path)
    run(study_of(*cells_of(4)[2:]), tmp_path)
    assert list(read_study(tmp_path)) == ["cell 2", "cell 3"]
    with open_study(tmp_path) as file:
        assert list(file.results()) == ["cell 0", "cell 1", "cell 2", "cell 3"]
    assert list(run(study_of(*cells_of(4)), tmp_path)) == ["cell 0", "cell 1", "cell 2", "cell 3"]
    assert len(read_study(tmp_path)) == 4
    assert diary(tmp_path) == ["0", "1", "2", "3"]


def test_a_file_without_a_plan_has_all_its_cells(tmp_path: Path) -> None:
    """As files have that an earlier version made."""
    run(study_of(*cells_of(2)), tmp_path)
    import sqlite3

    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("DROP TABLE planned")
    connection.close()
    assert list(read_study(tmp_path)) == ["cell 0", "cell 1"]
    assert list(run(study_of(*cells_of(3)), tmp_path)) == ["cell 0", "cell 1", "cell 2"]


def test_what_no_cell_needs_any_more_is_removed(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "home").mkdir(parents=True)
    study = Study(name="test", cells=lambda finished: cells_of(2), spent=lambda finished: ["first"] if "cell 1" in finished else [])
    run(study, tmp_path)
    assert not (tmp_path / "first").exists()
    assert (tmp_path / "second" / "home").exists()


def test_room_is_at_least_for_one_cell_and_never_for_more_than_the_cores_allow() -> None:
    assert room_here([Cell(name="large", parameters={}, work=noted, memory_gib=100_000)]) == 1
    assert room_here([Cell(name="small", parameters={}, work=noted, memory_gib=1e-6)]) == usable_cores()


def test_a_cell_with_other_parameters_is_refused(tmp_path: Path) -> None:
    run(study_of(*cells_of(1)), tmp_path)
    changed = Cell(name="cell 0", parameters={"n": 7}, work=noted)
    with pytest.raises(InputError, match=r"cell 0 was made with other parameters .*--keep"):
        run(study_of(changed), tmp_path)


def test_one_process_at_a_time_works_on_a_study(tmp_path: Path) -> None:
    with open_study(tmp_path), pytest.raises(InputError, match="another process works on the study"), open_study(tmp_path):
        pass


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(tmp_path / FILE_NAME)
    connection.execute("CREATE TABLE other (n)")
    connection.close()
    with pytest.raises(InputError, match="is not the file of a study"), open_study(tmp_path):
        pass


def test_processes_of_a_killed_run_end_too(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; import sys; from tests.agent.studies.study_cells import *; "
        "from perdure.agent.studies.study_file import open_study\n"
        "if __name__ == '__main__':\n"
        "    with open_study(Path(sys.argv[1])) as file: run_here(study_of(*cells_of(400, slow)), file, print, 2)"
    )
    (tmp_path / "main.py").write_text(program)
    words = [sys.executable, str(tmp_path / "main.py"), str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not ((tmp_path / FILE_NAME).exists() and len(read_study(tmp_path)) >= 3):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(1)
    done = len(diary(tmp_path))
    time.sleep(1)
    assert len(diary(tmp_path)) == done


def test_ctrl_c_ends_a_run_at_once_also_in_the_middle_of_long_cells(tmp_path: Path) -> None:
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # whatever started the tests may ignore it
        "from pathlib import Path; import sys; from tests.agent.studies.study_cells import *; "
        "from perdure.agent.studies.study_file import open_study\n"
        "if __name__ == '__main__':\n"
        "    with open_study(Path(sys.argv[1])) as file: run_here(study_of(*cells_of(2, endless)), file, print, 2)"
    )
    (tmp_path / "main.py").write_text(program)
    words = [sys.executable, str(tmp_path / "main.py"), str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / DIARY).exists() or len(diary(tmp_path)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert process.returncode == -signal.SIGINT


def test_a_killed_run_loses_only_what_it_was_doing(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; import sys; from tests.agent.studies.study_cells import *; "
        "from perdure.agent.studies.study_file import open_study\n"
        "with open_study(Path(sys.argv[1])) as file: run_here(study_of(*cells_of(40, slow)), file, print, 1)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not ((tmp_path / FILE_NAME).exists() and len(read_study(tmp_path)) >= 3):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    finished = read_study(tmp_path)
    assert 3 <= len(finished) < 40
    run(study_of(*cells_of(len(finished) + 2)), tmp_path)
    repeated = len(diary(tmp_path)) - len(set(diary(tmp_path)))
    assert repeated <= 1
    assert set(read_study(tmp_path)) == {f"cell {k}" for k in range(len(finished) + 2)}
