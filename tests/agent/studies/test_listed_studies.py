"""What is listed of studies: those that come with Perdure, those of a folder, and those that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from perdure.agent.cli import perdure
from perdure.agent.studies.catalogue import STUDIES
from perdure.agent.studies.listed_studies import list_studies
from perdure.agent.studies.study_file import FILE_NAME, open_study


def test_a_study_that_cannot_be_read_is_named_and_hides_no_other(tmp_path: Path) -> None:
    for name in ("mode-seeking", "mine"):
        with open_study(tmp_path / name):
            pass
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / FILE_NAME).write_bytes(b"no database" * 100)
    listed = {one.name: one for one in list_studies(tmp_path)}
    assert list(listed) == [*STUDIES, "mine", "torn"]
    assert [name for name, one in listed.items() if one.is_there] == ["mode-seeking", "mine", "torn"]
    assert [name for name, one in listed.items() if one.error] == ["torn"]
    done = CliRunner().invoke(perdure, ["study", "list", "--keep", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == [one.as_json() for one in listed.values()]
    assert str(tmp_path / "torn" / FILE_NAME) in json.loads(done.stdout)[-1]["error"]
