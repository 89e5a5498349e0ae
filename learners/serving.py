"""The model that plays live tasks, in the actor's process: one version at a time beside its opponents, their files checked when loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from perdure.envs.policy import Policy
from perdure.learners.engines.engine import Engine
from perdure.learners.learning import ensure_loaded, open_engine
from perdure.learners.models import resolve_model
from perdure.memory.records import VersionRef
from perdure.memory.store import Store
from perdure.memory.versions import add_initial


class ServingModel:
    """An engine that holds the weights of the version that was loaded last, and of the versions that play against it."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self.chat = engine.chat
        self.context_limit = engine.context_limit
        self._store = store
        self._engine = engine
        self._loaded: VersionRef | None = None
        self._opponents: set[VersionRef] = set()

    def load(self, version: str) -> Policy:
        """Whoever answers as this version; the one before is let go of. Raises `RuntimeFailure` where its files are missing or damaged."""
        loaded = ensure_loaded(self._store, self._engine, version)
        if self._loaded is not None and self._loaded != loaded and self._loaded not in self._opponents:
            self._engine.unload(self._loaded)
        self._loaded = loaded
        return self._engine.policy(loaded)

    def opponent(self, version: str) -> Policy:
        """Whoever answers as this version, from now on beside the one that plays: each opponent stays in memory, as large as the model.

        Raises `UnknownError` where there is no such version, and `RuntimeFailure` where its files are missing or damaged.
        """
        loaded = ensure_loaded(self._store, self._engine, version)
        self._opponents.add(loaded)
        return self._engine.policy(loaded)


def open_model(store: Store, name: str, cache: Path, *, device: str, seed: int, say: Callable[[str], None]) -> ServingModel:
    """Find a model, load it, and make it the first version where there is none; `say` gets a line for each slow step."""
    files = resolve_model(name, cache, say)
    say(f"loading {files.name}")
    engine = open_engine(store, files, device=device, seed=seed)
    add_initial(store, files.name, files.hash)  # only now: a home keeps its model for good
    return ServingModel(store, engine)
