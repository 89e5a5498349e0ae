"""Homes for pages: one without a store, one in which nothing has happened, and one with a little of everything."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.agent.web.pages.browser import Browser, browser_of
from tests.memory.everything import fill

from perdure.memory.store import create_store


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("filled") / "home"
    with create_store(home) as store:
        fill(store)
    return home


@pytest.fixture
def home(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of one test, which may change it. Of the settings there are only defaults."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(filled, tmp_path / "home"))


@pytest.fixture
def browser(home: Path) -> Browser:
    return browser_of(home)


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a store in which nothing has happened."""
    monkeypatch.chdir(tmp_path)
    with create_store(tmp_path / "home"):
        return tmp_path / "home"
