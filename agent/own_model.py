"""Whether a configuration names the model of a home, found out before anything is written there.

A home belongs to one model for good. A configuration of another folder, found by chance, must not leave its environments and tasks behind.
Left out: fetching and loading models (`learners/weights/base_models.py`).
"""

from __future__ import annotations

from pathlib import Path

from perdure.agent.config import Config
from perdure.agent.home import cache_dir
from perdure.memory.store import FILE_NAME, Store, open_store
from perdure.memory.versions import INITIAL, base_of, refused_model


def require_own_model(store: Store, config: Config) -> None:
    """Raise `InputError` if the versions of this home belong to another model than the configured one.

    A model that has the name of the home's, and is not on this machine, is compared once it is fetched.
    """
    if not store.rows("SELECT 1 FROM version WHERE name = ?", (INITIAL,)):
        return
    from perdure.learners.weights.base_models import find_model

    name, digest = base_of(store, INITIAL)
    found = find_model(config.model, cache_dir())
    if found.hash != digest if found is not None else config.model != name:
        raise refused_model(store, config.model)


def require_model_of(home: Path, config: Config) -> None:
    """The same for a home that may not exist yet."""
    if (home / FILE_NAME).exists():
        with open_store(home) as store:
            require_own_model(store, config)
