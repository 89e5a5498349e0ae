"""Which versions an engine has loaded. All versions are loaded here: for the actor, for the gate, and as opponents of a learner.

The samplers of a job's own steps are not versions; the job loads and unloads them itself.
"""

from __future__ import annotations

from perdure.envs.policy import Policy
from perdure.envs.rollout import Opponents
from perdure.learners.engines.engine import Engine
from perdure.learners.engines.version_loading import version_weights
from perdure.memory.records import VersionRef
from perdure.memory.store import Store
from perdure.memory.versions import get_version

MOST_LOADED = 3
"""Merged weights are as large as the model, and a gate has a reference for each anchor."""


class LoadedVersions:
    """The versions in one engine. For one more than `most`, the least recently used is unloaded, unless it is pinned."""

    def __init__(self, store: Store, engine: Engine, most: int = MOST_LOADED) -> None:
        self.store = store
        self.engine = engine
        self._most = most
        self._used: list[VersionRef] = []
        """The last used at the end."""
        self._pinned: set[VersionRef] = set()

    def load(self, name: str) -> VersionRef:
        """Load a version unless it is loaded.

        Raises `UnknownError` if there is no such version, and `RuntimeFailure` if its files are missing or damaged.
        """
        ref = VersionRef(name)
        if ref in self._used:
            self._used.remove(ref)
        if ref not in self.engine:
            weights = version_weights(self.store, self.engine.files, get_version(self.store, name))
            self._make_room()
            self.engine.load(ref, weights)
        self._used.append(ref)
        return ref

    def pin(self, name: str) -> VersionRef:
        """Load a version that stays until `unpin`: episodes in play ask its policy. Raises as `load` does."""
        ref = self.load(name)
        self._pinned.add(ref)
        return ref

    def unpin(self) -> None:
        """Versions that were pinned may be unloaded again: no episode is in play."""
        self._pinned.clear()

    def opponents(self, serving: str) -> Opponents:
        """Versions as opponents, which stay until `unpin`. The opponent 'serving' is always `serving`, even if another serves later."""

        def opponent(name: str) -> tuple[VersionRef, Policy]:
            ref = self.pin(serving if name == "serving" else name)
            return ref, self.engine.policy(ref)

        return opponent

    def _make_room(self) -> None:
        for ref in [ref for ref in self._used if ref not in self._pinned][: max(0, len(self._used) + 1 - self._most)]:
            self._used.remove(ref)
            if ref in self.engine:
                self.engine.unload(ref)
