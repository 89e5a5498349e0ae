"""A real browser in front of a real page: the system's Chromium, driven by Playwright. `make test-browser` runs these tests.

Where Playwright is not installed they are not even collected.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.browser.visits import Visits

collect_ignore_glob = [] if find_spec("playwright") else ["test_*.py"]


@pytest.fixture(scope="session")
def visits() -> Iterator[Visits]:
    """The browser."""
    from playwright.sync_api import sync_playwright
    from tests.browser.visits import Visits, chromium

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield Visits(browser)
        browser.close()


@pytest.fixture
def visit(visits: Visits) -> Iterator[Visits]:
    """The browser, whose windows are closed after each test."""
    yield visits
    visits.close()


@pytest.fixture(scope="session")
def place_of_pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")
