"""The files of versions, by the hash of their contents, in parts: what a player does not have yet, it fetches once.

The hash of a version is that of its manifest, which names its files with theirs (`memory/files.py`). What is sent is not checked here: who
receives it does, and asks by a hash that the head's database has said.
"""

from __future__ import annotations

from pathlib import Path

from perdure.agent.cluster.journal.journal_messages import Body, unreadable
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.files import MANIFEST
from perdure.memory.json_value import Document
from perdure.memory.store import open_store

PART_BYTES = 4 * 2**20


def version_part(home: Path, head: Document) -> Body:
    """Up to `PART_BYTES` of a file of the version with this hash, from an offset. Raises `InputError`, and `RuntimeFailure`."""
    try:
        hash_, name, offset = str(head["hash"]), str(head["file"]), int(head["offset"])
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(error) from error
    with open_store(home, reading=True) as store:
        rows = store.rows("SELECT path FROM version WHERE hash = ? AND path IS NOT NULL", (hash_,))
    folder = home / rows[0]["path"] if rows else None
    if folder is None or name not in {MANIFEST, *(file.name for file in folder.glob("*"))} or offset < 0:
        raise InputError(f"no file {name!r} of a version with the hash {hash_[:12]}")
    try:
        with (folder / name).open("rb") as file:
            file.seek(offset)
            part = file.read(PART_BYTES)
            return Body(head={"size_bytes": file.seek(0, 2)}, rest=part)
    except OSError as error:
        raise RuntimeFailure(f"{folder / name} cannot be read ({error.strerror}): restore it from a backup, or roll back") from error
