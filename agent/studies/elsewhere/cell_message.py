"""The form in which a cell and its result travel: a JSON document, and files of folders, in one run of bytes. Nothing in it names code.

A length of 8 bytes, the head (JSON: the document, a path and a size for each file, the SHA-256 of what follows it), then the files in turn.
Only plain files in plain folders: a link, or a path that leads out of its folder, is refused by both sides.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath

from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.json_value import Document, to_json

LENGTH_BYTES = 8
MOST_BYTES = 2**30
"""Of a message. It lies in memory as a whole, on both sides."""
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class CellMessage:
    """What was told: a document, and files by their paths."""

    document: Document
    files: Mapping[str, bytes | memoryview]

    def write_files(self, folder: Path) -> None:
        """Write the files under a folder, all of them on the disk when this returns."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())


def write_message(document: Document, folder: Path | None = None, names: Sequence[str] = ()) -> bytes:
    """A document, with the files of these folders inside `folder`. Raises `RuntimeFailure` if one has a link, or if it is too large."""
    paths = [] if folder is None else sorted(path for name in names for path in _plain_files(folder / name))
    size_bytes = sum(path.stat().st_size for path in paths)
    if size_bytes > MOST_BYTES:
        raise RuntimeFailure(
            f"{', '.join(names)}: {size_bytes / GIB:.1f} GiB do not travel between machines (at most {MOST_BYTES // GIB}): "
            "have fewer checkpoints, or run this study without --cluster"
        )
    contents = [path.read_bytes() for path in paths]
    body = b"".join(contents)
    head: Document = {
        "document": document,
        "files": [[str(path.relative_to(folder)), len(content)] for path, content in zip(paths, contents, strict=True) if folder],
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    written = to_json(head).encode()
    return b"".join((len(written).to_bytes(LENGTH_BYTES, "big"), written, body))


def read_message(data: bytes) -> CellMessage:
    """What `write_message` wrote. Raises `InputError` if this is something else, or was damaged on its way."""
    try:
        body_at = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "big")
        head = json.loads(data[LENGTH_BYTES:body_at])
        document, listed, sha256 = head["document"], [(str(name), int(size)) for name, size in head["files"]], head["sha256"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError("what came is not a cell's message") from error
    body = memoryview(data)[body_at:]
    sizes = [size for _, size in listed]
    if not isinstance(document, dict) or min(sizes, default=0) < 0 or sum(sizes) != len(body):
        raise InputError("what came is not a cell's message, or was cut off")
    if hashlib.sha256(body).hexdigest() != sha256:
        raise InputError("the files of a cell's message have changed on their way")
    ends = list(accumulate(sizes))
    return CellMessage(
        document=document,
        files={_inside(name): body[end - size : end] for (name, size), end in zip(listed, ends, strict=True)},
    )


def _inside(name: str) -> str:
    """The path, if it stays in its folder."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputError(f"a cell's message has a file {name!r}, which would lie outside of its folder")
    return str(path)


def _plain_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (Path(parent) / name).is_symlink():
                raise RuntimeFailure(f"{Path(parent) / name} is a link, which does not travel between machines")
        yield from (path for name in files if (path := Path(parent) / name).is_file())
