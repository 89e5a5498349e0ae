"""The model of a player: versions come from the head as files, by the hash of their contents, and stay in a folder of this node.

A version is loaded only if its files are those of its manifest, the manifest is the one in the head's database, and the adapter changes
what the base model says to a fixed prompt (`learners/engines/adapter_effect.py`). Left out: when a version serves (`player.py`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from perdure.agent.cluster.journal.journal_messages import Body
from perdure.agent.processes.live_shift import Model
from perdure.envs.policy import Chat, Policy
from perdure.memory.errors import RuntimeFailure, UnknownError
from perdure.memory.files import MAKING, MANIFEST, check_files, publish
from perdure.memory.json_value import Document
from perdure.memory.records import VersionRef

if TYPE_CHECKING:
    from perdure.learners.engines.engine import Engine
    from perdure.learners.weights.weight_sets import Weights

Ask = Callable[[str, Document], Body]
"""Asks the journal as this player."""


MOST_LOADED = 3
KEPT = 8
"""Versions whose files stay on this node."""


class RemoteModel(Model, Protocol):
    """What a player needs of a model: to play, and to say which files it has loaded."""

    @property
    def hashes(self) -> Mapping[str, str]:
        """Of the versions that are loaded, by name."""
        ...


class FetchedModel:
    """The model of a node, on its engine. Up to `MOST_LOADED` versions stay loaded, and those that are in play."""

    def __init__(self, engine: Engine, cache: Path, ask: Ask) -> None:
        self.engine = engine
        self.hashes: dict[str, str] = {}
        """Of the versions that are loaded, by name; the last used at the end."""
        self._in_play: set[str] = set()
        self._cache = cache
        self._ask = ask

    @property
    def chat(self) -> Chat:
        return self.engine.chat

    @property
    def context_limit(self) -> int:
        return self.engine.context_limit

    def load(self, version: str) -> Policy:
        """The policy of this version; none but it is in play. Raises as `opponent` does."""
        self._in_play.clear()
        return self.opponent(version)

    def opponent(self, version: str) -> Policy:
        """The policy of this version, beside the one that plays.

        Raises `UnknownError`, and `RuntimeFailure` if its files are missing, damaged or without effect.
        """
        self._in_play.add(version)
        if version in self.hashes:
            self.hashes[version] = self.hashes.pop(version)
        else:
            self._load(version)
        return self.engine.policy(VersionRef(version))

    def _load(self, version: str) -> None:
        """Fetch and load a version, make room for it before, and have what it says compared."""
        from perdure.learners.engines.adapter_effect import prompt_scores

        ref = VersionRef(version)
        said = self._ask("serving", {"version": version}).head
        weights = {} if said["base"] else self._weights(str(said["hash"]))
        for name in [name for name in self.hashes if name not in self._in_play][: max(0, len(self.hashes) + 1 - MOST_LOADED)]:
            del self.hashes[name]
            self.engine.unload(VersionRef(name))
        self.engine.load(ref, weights)
        self.hashes[version] = str(said["hash"])
        scores = list(prompt_scores(self.engine, ref))
        self._ask("loaded", {"version": version, "hash": said["hash"], "numerics": self.engine.numerics, "scores": scores})

    def _weights(self, hash_: str) -> Weights:
        from perdure.learners.weights.adapters import load_version

        if not hash_.isalnum():
            raise UnknownError(f"{hash_!r} is no hash of a version")
        folder = self._cache / hash_
        with suppress(RuntimeFailure):
            if folder.is_dir():
                check_files(folder, hash_)
                return load_version(self._cache, hash_, hash_, self.engine.files)
        fetch_version(folder, hash_, self._ask)
        forget_old_versions(self._cache, folder)
        return load_version(self._cache, hash_, hash_, self.engine.files)


def fetch_version(folder: Path, hash_: str, ask: Ask) -> None:
    """Fetch a version's files into `folder`, which appears when it is complete and checked. Raises `RuntimeFailure` if they differ."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=MAKING) as made_name:
        made = Path(made_name) / "version"
        made.mkdir()
        _fetch(made, MANIFEST, hash_, ask)
        for name in json.loads((made / MANIFEST).read_text())["files"]:
            if "/" in name or name.startswith("."):
                raise RuntimeFailure(f"the manifest of the version {hash_[:12]} names {name!r}, which is no file of a version")
            _fetch(made, name, hash_, ask)
        check_files(made, hash_)
        with suppress(OSError):  # another player of this node was faster
            publish(made, folder)


def forget_old_versions(cache: Path, newest: Path) -> None:
    """Delete all but the latest versions in this folder."""
    found = sorted((entry for entry in cache.iterdir() if entry.is_dir() and entry.name[0] != "."), key=lambda entry: entry.stat().st_mtime)
    for folder in [entry for entry in found if entry != newest][: -KEPT + 1]:
        shutil.rmtree(folder, ignore_errors=True)


def _fetch(folder: Path, name: str, hash_: str, ask: Ask) -> None:
    with (folder / name).open("wb") as file:
        while True:
            part = ask("version-part", {"hash": hash_, "file": name, "offset": file.tell()})
            file.write(part.rest)
            if not part.rest or file.tell() >= int(part.head["size_bytes"]):
                return
