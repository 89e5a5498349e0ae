"""Where shards lie: in the folder `history/` of the home, or in a bucket of a store that speaks S3.

An address such as `s3://bucket/folder?endpoint_override=127.0.0.1:9000&scheme=http&region=us-east-1` is kept in the database, and so has no
keys in it: they come from the environment or from the files of the AWS tools. Every request has a limit, and an end that does not answer,
or refuses, is named in one line. Left out: what is in a shard (`shard_files.py`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from perdure.memory.errors import InputError, RuntimeFailure, Unavailable
from perdure.memory.files import publish, sha256_of
from perdure.memory.store import HISTORY

S3 = "s3"
CONNECT_S = 5
REQUEST_S = 20
"""How long a request may stand still."""
ATTEMPTS = 2
CHUNK_BYTES = 2**20
_OPTIONS = ("endpoint_override", "scheme", "region")
_FORM = "s3://BUCKET/FOLDER, with ?region=, endpoint_override= and scheme= if they are needed"
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of the AWS tools"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlace:
    """Where one shard lies, or would."""

    name: str
    """As the database has it, and messages say it."""
    file: Path | None
    """In the home; None if it is in a bucket."""
    path: str
    """For pyarrow, with `filesystem`."""
    filesystem: Any = None
    """None for files."""
    end: str | None = None
    """Whom requests go to; None for files."""


def shard_place(home: Path, name: str) -> ShardPlace:
    """The place that a name stands for: `history/FILE`, or an address. Raises `InputError` for any other."""
    if urlsplit(name).scheme == S3:
        path, options = _parsed(name)
        end = f"{path.partition('/')[0]}?{urlencode(options)}"
        return ShardPlace(name=name, file=None, path=path, filesystem=_filesystem(**options), end=end)
    file = home / name
    if name != f"{HISTORY}/{file.name}" or file.name in ("", ".", ".."):
        raise InputError(f"{name!r} is no place of a shard: {HISTORY}/FILE in the home, or {_FORM}")
    return ShardPlace(name=name, file=file, path=str(file))


def new_place(home: Path, to: str | None, file_name: str) -> ShardPlace:
    """The place of a new shard: in the home, or under the address `to`."""
    if to is None:
        return shard_place(home, f"{HISTORY}/{file_name}")
    path, options = _parsed(to)
    return shard_place(home, f"{S3}://{path.rstrip('/')}/{file_name}" + (f"?{urlencode(options)}" if options else ""))


def require_bucket(to: str) -> None:
    """Raise `InputError` if this is no address of a bucket.

    Raises `Unavailable` if its end does not answer, and `RuntimeFailure` if it has no such bucket or refuses.
    """
    path, options = _parsed(to)
    bucket = path.partition("/")[0]
    with _answers(to):
        from pyarrow.fs import FileType

        found = _filesystem(**options).get_file_info(bucket)
        if found.type == FileType.NotFound:
            raise RuntimeFailure(f"there is no bucket {bucket} at {to}: make it, or name another one; nothing was moved")


def stamp(place: ShardPlace) -> tuple[int, ...] | None:
    """What tells that a file is another one than before, without reading it; None if there is none.

    Raises `Unavailable` if its end does not answer, and `RuntimeFailure` if it refuses.
    """
    if place.file is not None:
        try:
            seen = place.file.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RuntimeFailure(f"{place.name} cannot be read: {error.strerror}") from error
        return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino
    with _answers(place.name):
        from pyarrow.fs import FileType

        found = place.filesystem.get_file_info(place.path)
        return None if found.type != FileType.File else (found.size, found.mtime_ns or 0)


def digest_at(place: ShardPlace) -> str:
    """The sha256 of the file. Raises `RuntimeFailure` if it cannot be read, `Unavailable` if its end does not answer."""
    if place.file is not None:
        try:
            return sha256_of(place.file)
        except OSError as error:
            raise RuntimeFailure(f"{place.name} cannot be read: {error.strerror}") from error
    with _answers(place.name), place.filesystem.open_input_stream(place.path) as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
        return digest.hexdigest()


def put(place: ShardPlace, made: Path) -> None:
    """Give the finished file `made` its place; once it is there, it is whole and synced. Raises `OSError` or `RuntimeFailure`."""
    if place.file is not None:
        publish(made, place.file)
        return
    with _answers(place.name):
        with made.open("rb") as source, place.filesystem.open_output_stream(place.path) as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
        made.unlink()


def remove(place: ShardPlace) -> None:
    """Remove the file, if it is there. Raises `RuntimeFailure` if it cannot."""
    if place.file is not None:
        place.file.unlink(missing_ok=True)
        return
    if stamp(place) is not None:
        with _answers(place.name):
            place.filesystem.delete_file(place.path)


def _parsed(address: str) -> tuple[str, dict[str, str]]:
    """Bucket and folder, and the options."""
    parts = urlsplit(address)
    if parts.scheme != S3 or not parts.netloc:
        raise InputError(f"{address!r} is no address of a bucket: write {_FORM}")
    if "@" in parts.netloc:
        raise InputError(f"keys do not belong into an address, which is stored: take them out, and set {_KEYS}")
    if parts.fragment or ".." in parts.path.split("/"):
        raise InputError(f"{address!r} has a part that no folder of a bucket has: write {_FORM}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise InputError(f"{address!r} has the option {unknown[0]!r}, which is not known: write {_FORM}")
    return parts.netloc + parts.path.rstrip("/"), options


@lru_cache(maxsize=8)
def _filesystem(endpoint_override: str | None = None, scheme: str | None = None, region: str | None = None) -> Any:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return S3FileSystem(
        endpoint_override=endpoint_override,
        scheme=scheme,
        region=region,
        connect_timeout=CONNECT_S,
        request_timeout=REQUEST_S,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@contextmanager
def _answers(address: str) -> Iterator[None]:
    """Raise `RuntimeFailure` that says what an end refused, and what to do; `Unavailable` if it does not answer."""
    try:
        yield
    except ImportError as error:
        raise RuntimeFailure(f"this build of pyarrow knows no S3: install pyarrow from PyPI to use {address}") from error
    except OSError as error:
        told = str(error).partition("\n")[0]
        if any(sign in told for sign in ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "SIGNATURE", "HTTP Status 401", "HTTP Status 403")):
            raise RuntimeFailure(f"{address} refuses the request: set {_KEYS}, with the right to read and write there") from error
        if "NO_SUCH_BUCKET" in told or "NoSuchBucket" in told:
            raise RuntimeFailure(f"there is no such bucket as that of {address}: make it, or name another one") from error
        if "NETWORK_CONNECTION" in told or "curlCode" in told:
            raise Unavailable(f"{address} does not answer ({_reason(told)}): check the address, and that the store runs") from error
        raise RuntimeFailure(f"{address} cannot be used: {told}") from error


def _reason(told: str) -> str:
    return told.rpartition("curlCode: ")[2].partition(";")[0].partition(", ")[2] or "no connection"
