"""A home that a daemon has left, a configuration, and two persons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.memory.everything import fill

from perdure.agent.config import Config
from perdure.agent.config_file import LoadedConfig
from perdure.memory.changes import Who, list_changes
from perdure.memory.store import Store, create_store

ANNA = Who(name="anna", via="page")
HERE = Who(name="root", via="command")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Store]:
    """v1 serves, v0 served before it, v2 is rejected, v3 a pinned candidate; job 3 waits. One change was made, of v3."""
    with create_store(tmp_path / "home") as store:
        fill(store)
        yield store


def configured(**sections: object) -> LoadedConfig:
    """A configuration with these settings. It names a stream of its own, which the home does not know."""
    given = {"model": "tiny", "stream": {"environments": ["perdure:opposite"]}, **sections}
    return LoadedConfig(config=Config.model_validate(given), origins={"stream.environments": "a test"}, path=None)


def rows(store: Store) -> list[tuple[str, str, str, str | None]]:
    """Who made which change of what, and why; oldest first, without that of `fill`."""
    return [(one.who, one.what, one.subject, one.reason) for one in reversed(list_changes(store, 1000))][1:]
