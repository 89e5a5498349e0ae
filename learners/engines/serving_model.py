"""The model that the actor plays with: one version at a time, beside its opponents."""

from __future__ import annotations

from perdure.envs.policy import Policy
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.loaded_versions import LoadedVersions
from perdure.memory.store import Store
from perdure.memory.versions import add_initial


class ServingModel:
    """Keeps the serving version and its opponents loaded in an engine, and no other version."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self.chat = engine.chat
        self.context_limit = engine.context_limit
        self._engine = engine
        self._versions = LoadedVersions(store, engine, most=1)

    def load(self, version: str) -> Policy:
        """The policy of this version; unloads others if it was not loaded. Raises `RuntimeFailure` if its files are missing or damaged."""
        self._versions.unpin()
        return self.opponent(version)

    def opponent(self, version: str) -> Policy:
        """The policy of this version, beside the one that plays; it takes as much memory as the model, until another version serves.

        Raises `UnknownError` if there is no such version, and `RuntimeFailure` if its files are missing or damaged.
        """
        return self._engine.policy(self._versions.pin(version))


def serve(store: Store, engine: Engine) -> ServingModel:
    """Serve with this engine; its base model becomes the first version if there is none. The base model of a home never changes."""
    add_initial(store, engine.files.name, engine.files.hash)
    return ServingModel(store, engine)
