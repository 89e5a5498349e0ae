"""The model that the actor plays with: one version at a time, beside its opponents."""

from __future__ import annotations

from perdure.envs.policy import Policy
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.version_loading import ensure_loaded
from perdure.memory.records import VersionRef
from perdure.memory.store import Store
from perdure.memory.versions import add_initial


class ServingModel:
    """Keeps the serving version and its opponents loaded in an engine."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self.chat = engine.chat
        self.context_limit = engine.context_limit
        self._store = store
        self._engine = engine
        self._loaded: VersionRef | None = None
        self._opponents: set[VersionRef] = set()

    def load(self, version: str) -> Policy:
        """The policy of this version; unloads the previous one. Raises `RuntimeFailure` if its files are missing or damaged."""
        loaded = ensure_loaded(self._store, self._engine, version)
        if self._loaded is not None and self._loaded != loaded and self._loaded not in self._opponents:
            self._engine.unload(self._loaded)
        self._loaded = loaded
        return self._engine.policy(loaded)

    def opponent(self, version: str) -> Policy:
        """The policy of this version, as an opponent. Each opponent stays in memory, and takes as much of it as the model.

        Raises `UnknownError` if there is no such version, and `RuntimeFailure` if its files are missing or damaged.
        """
        loaded = ensure_loaded(self._store, self._engine, version)
        self._opponents.add(loaded)
        return self._engine.policy(loaded)


def serve(store: Store, engine: Engine) -> ServingModel:
    """Serve with this engine; its base model becomes the first version if there is none. The base model of a home never changes."""
    add_initial(store, engine.files.name, engine.files.hash)
    return ServingModel(store, engine)
