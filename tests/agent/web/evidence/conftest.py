"""One judged home for all tests that only look, and a copy of it for each that changes something."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.agent.web.evidence.judged_home import Judged, make_home
from tests.agent.web.evidence.visitor import Visitor, visitor


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    home = tmp_path_factory.mktemp("judged") / "home"
    return Judged(home=home, gates=make_home(home))


@pytest.fixture(scope="session")
def looking(judged: Judged) -> Visitor:
    """A visitor of the home that nobody changes."""
    return visitor(judged.home)


@pytest.fixture
def acting(judged: Judged, tmp_path: Path) -> Visitor:
    """A visitor of a copy."""
    shutil.copytree(judged.home, tmp_path / "copy")
    return visitor(tmp_path / "copy")
