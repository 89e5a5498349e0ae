"""A home for gates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.learners.gate.gated_home import OLD

from perdure.memory import environments, versions
from perdure.memory.store import Store, create_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """v1 serves, v2 is a candidate, and six environments are known."""
    with create_store(tmp_path / "home") as store:
        for name in (*OLD, "new"):
            environments.register(store, name)
        versions.add_initial(store, "tiny", "abc")
        versions.add_candidate(store, None, "v1", "v0", "h1", None, ["old0"], None)
        versions.promote(store, "v1", "a first one")
        versions.add_candidate(store, None, "v2", "v1", "h2", None, ["new"], None)
        yield store
