"""The model that plays live tasks, as the actor sees it: one version at a time beside its opponents, their files checked when loaded."""

from __future__ import annotations

from perdure.envs.policy import Policy
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.version_loading import ensure_loaded
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


def serve(store: Store, engine: Engine) -> ServingModel:
    """Play with this engine, whose model is made the first version where there is none. A home keeps its model for good."""
    add_initial(store, engine.files.name, engine.files.hash)
    return ServingModel(store, engine)
