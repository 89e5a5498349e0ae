"""Shards against their digests: compared when a file is first opened, and again if it has changed since.

What a file looked like when it was compared (size, times, inode) stands in `run/shards.json` of the home, so that a query over thousands of
shards does not read them all for each command. The file can be lost at no cost. It does not see a bit that flips on the disk beneath:
`perdure store check` reads every shard anew.

An end that did not answer is not asked again for a minute: else each shard in it would cost the whole limit of a request.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from perdure.memory.errors import RuntimeFailure, ShardLost, Unavailable
from perdure.memory.history.shard_index import Shard, get_shards, shards_of
from perdure.memory.history.shard_places import digest_at, shard_place, stamp
from perdure.memory.json_value import to_json
from perdure.memory.store import Store

NOTED = "run/shards.json"
SILENT_S = 60.0
"""For so long an end that did not answer is not asked."""


def require_whole(store: Store, shard: Shard, *, anew: bool = False) -> None:
    """Raise `ShardLost` if a shard is missing, differs from its digest or cannot be reached. `anew`: read it, whatever was noted."""
    end = None
    try:
        place = shard_place(store.home, shard.place)
        end = place.end
        if end is not None and time.monotonic() < store.silent_until.get(end, 0.0):
            raise ShardLost(f"the shard {shard.place} cannot be read: its bucket did not answer just now; it is asked again in a minute")
        seen = stamp(place)
        if seen is None:
            raise ShardLost(f"the shard {shard.place} is missing: {_LOST}")
        if not anew:
            if shard.place not in store.compared:
                store.compared |= _noted(store.home)
            if store.compared.get(shard.place) == seen:
                return
        if seen[0] != shard.size_bytes or digest_at(place) != shard.sha256:
            store.compared.pop(shard.place, None)
            raise ShardLost(f"the shard {shard.place} was changed or damaged (its sha256 differs): {_LOST}")
    except ShardLost:
        raise
    except RuntimeFailure as error:
        if isinstance(error, Unavailable) and end is not None:
            store.silent_until[end] = time.monotonic() + SILENT_S
        raise ShardLost(f"the shard {shard.place} cannot be read: {error}") from error
    if not anew:
        note_whole(store, shard.place, seen)


def lost_shards(store: Store, of: Iterable[Shard]) -> dict[int, str]:
    """Those of these shards that cannot be read, by id, each with what is wrong."""
    lost: dict[int, str] = {}
    for shard in of:
        try:
            require_whole(store, shard)
        except ShardLost as error:
            lost[shard.id] = str(error)
    return lost


def lost_episodes(store: Store, episodes: Sequence[int]) -> dict[int, str]:
    """Those of these episodes whose turns cannot be read, each with what is wrong."""
    where = shards_of(store, episodes)
    lost = lost_shards(store, get_shards(store, where.values())) if where else {}
    return {episode: lost[shard] for episode, shard in where.items() if shard in lost}


def note_whole(store: Store, place: str, seen: tuple[int, ...]) -> None:
    """Note that a file was compared when it looked like this. In a home that cannot be written, for this process alone."""
    store.compared |= _noted(store.home) | {place: seen}
    made = store.home / f"{NOTED}.{os.getpid()}"
    with suppress(OSError):
        made.write_text(to_json({place: list(stamp) for place, stamp in store.compared.items()}))
        made.rename(store.home / NOTED)


def _noted(home: Path) -> dict[str, tuple[int, ...]]:
    try:
        noted = json.loads((home / NOTED).read_text())
        return {str(place): tuple(int(number) for number in stamp) for place, stamp in noted.items()}
    except (OSError, ValueError, AttributeError, TypeError):  # it is only a note
        return {}


_LOST = "restore it from a backup; episodes whose turns are elsewhere are not touched by this"
