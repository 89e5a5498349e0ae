"""Models of a hub: 'owner/name', or 'owner/name@revision'.

A hub's model may be edited, and a home must not change its model for that. So the cache is looked at first, and a home stores the revision
that it began with: if the cache is lost, or on another machine, that one is fetched again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure.learners.weights.weight_files import INDEX, SINGLE, TEXTS, shards_of
from perdure.memory.errors import InputError, RuntimeFailure

PINS = "model-revisions.json"
"""In a home: revisions by the names of models."""


def is_hub_id(model: str) -> bool:
    """'owner/name', perhaps with '@revision', unless there is a folder of that name."""
    name = model.partition("@")[0]
    return name.count("/") == 1 and not model.startswith((".", "/", "~")) and not name.endswith("/") and not Path(model).is_dir()


def cached_snapshot(model: str, cache: Path, home: Path | None) -> Path | None:
    """The folder of a hub's model in the cache, which may be incomplete; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    name, revision = _wanted(model, home)
    found = try_to_load_from_cache(name, "config.json", cache_dir=cache / "hub", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def fetch_from_hub(model: str, cache: Path, say: Callable[[str], None], home: Path | None) -> Path:
    """Fetch texts first, then the weights that the index names, or the single file. Raises `RuntimeFailure` if that fails, `InputError` if
    the cache cannot be written."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, revision = _wanted(model, home)
    place = cache / "hub"
    try:
        place.mkdir(parents=True, exist_ok=True)
        writable = os.access(place, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise InputError(f"the model cache {place} cannot be written: allow writing there, or name another one in PERDURE_CACHE")
    say(f"fetching {model} from the model hub")
    try:
        folder = Path(snapshot_download(name, revision=revision, cache_dir=place, allow_patterns=list(TEXTS)))
        index = folder / INDEX
        weights = shards_of(index) if index.is_file() else [SINGLE]
        # the same commit, even if the hub's model is edited between the two
        return Path(snapshot_download(name, revision=folder.name, cache_dir=place, allow_patterns=weights))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        pinned = f" at revision {revision}" if revision else ""
        raise RuntimeFailure(
            f"could not fetch {name!r}{pinned} from the model hub ({type(error).__name__}): check the name and the network"
        ) from error


def pin_revision(model: str, folder: Path, home: Path) -> None:
    """Store in the home that it uses this revision, a folder of the cache, unless it has stored one."""
    pins = _pins(home)
    if model not in pins:
        made = home / f".{PINS}"
        made.write_text(json.dumps({**pins, model: folder.name}, indent=1))
        made.replace(home / PINS)


def _wanted(model: str, home: Path | None) -> tuple[str, str | None]:
    """Name and revision."""
    name, _, revision = model.partition("@")
    pinned = _pins(home).get(model) if home is not None else None
    return name, pinned or revision or None


def _pins(home: Path) -> dict[str, str]:
    try:
        pins: Any = json.loads((home / PINS).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RuntimeFailure(f"{home / PINS} is damaged: restore it from a backup, or delete it to use the model in the cache") from error
    return {str(name): str(revision) for name, revision in pins.items()} if isinstance(pins, dict) else {}
