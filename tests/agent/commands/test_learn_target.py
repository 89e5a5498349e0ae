"""Which target `perdure learn` takes if none is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.agent.commands.learn import _choose, _Prepared
from perdure.memory import environments, versions
from perdure.memory.errors import InputError
from perdure.memory.store import Store, create_store

WORDS, SORT, SPELL = "perdure:words", "perdure:sort", "perdure:spell"


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[_Prepared]:
    """A home in which v1, trained on `WORDS`, serves since a moment ago."""
    with create_store(tmp_path / "home") as store:
        for name in (WORDS, SORT, SPELL):
            environments.register(store, name, 1.0, 0.0, 1.0)
        versions.add_initial(store, "base", "hash")
        versions.add_candidate(store, None, "v1", "v0", "of v1", None, [WORDS], None)
        versions.promote(store, "v1", "a test wants it")
        yield _Prepared(store=store, stream=[WORDS, SORT, SPELL], targets=[])


def played(store: Store, version: str, environment: str, episodes: int, successes: int) -> None:
    with store.write() as db:
        db.execute("INSERT INTO rate VALUES (?, ?, ?, ?, ?, ?)", (version, environment, episodes, successes, episodes // 4, episodes // 8))


def test_after_a_promotion_the_episodes_of_the_version_before_count_and_what_was_trained_since_comes_last(prepared: _Prepared) -> None:
    for environment, successes in ((WORDS, 20), (SORT, 6), (SPELL, 0)):
        played(prepared.store, "v0", environment, 64, successes)
    played(prepared.store, "v1", SORT, 8, 2)
    assert _choose(prepared) == [SORT]


def test_the_episodes_of_the_serving_version_come_first(prepared: _Prepared) -> None:
    played(prepared.store, "v0", SORT, 64, 20)
    played(prepared.store, "v1", WORDS, 16, 8)
    assert _choose(prepared) == [WORDS]


def test_if_nothing_was_ever_learnable_no_target_is_chosen(prepared: _Prepared) -> None:
    played(prepared.store, "v0", SORT, 8, 2)
    with pytest.raises(InputError, match="no target was chosen, because the serving version has completed no episode yet; name one with"):
        _choose(prepared)
