"""A home with a life in it, made once and copied for each test, and an application over it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.agent.web.api.asking import Asker, asker
from tests.agent.web.api.lived_home import live_a_life

CONFIG = "model = 'tiny'\nstream.environments = ['perdure:add']\n"


@pytest.fixture(scope="session")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("life") / ".perdure"
    live_a_life(home)
    return home


@pytest.fixture
def home(life: Path, tmp_path: Path) -> Path:
    """Of this test alone, which may change it."""
    (tmp_path / "perdure.toml").write_text(CONFIG)
    return Path(shutil.copytree(life, tmp_path / ".perdure"))


@pytest.fixture
def ask(home: Path) -> Asker:
    return asker(home)
