"""Shards in a bucket, of moto's server on loopback: the same as in the home, and one line for all that can go wrong."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.memory.history.test_archive import NOW, archive, done_task, findings, in_database, many, quiet, readings

from perdure.memory.errors import InputError, RuntimeFailure, ShardLost
from perdure.memory.history.checked_shards import lost_shards
from perdure.memory.history.read_sql import ask_sql
from perdure.memory.history.shard_index import begin, shards, unfinished
from perdure.memory.history.shard_places import shard_place, stamp
from perdure.memory.store import Store, open_store
from perdure.memory.trajectories.episodes import episodes_by_id, get_episode
from perdure.memory.upkeep.backup import backup
from perdure.memory.upkeep.prune import Keep, prune

pytestmark = pytest.mark.processes
needs_moto = pytest.mark.skipif(importlib.util.find_spec("moto") is None, reason="moto is not installed: make test-history")
LIMIT_S = 45
"""Every refusal comes within it; a store that does not answer is given up after two requests of 20 s."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The host and port of a server of S3."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": ""})
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {"ACCESS_KEY_ID": "made-up", "SECRET_ACCESS_KEY": "made-up-too", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)


@pytest.fixture
def bucket(server: str, keys: None, request: pytest.FixtureRequest) -> str:
    """The address of a folder in a bucket that is there."""
    from pyarrow.fs import S3FileSystem

    name = f"b{abs(hash(request.node.name)) % 10**9}"
    S3FileSystem(endpoint_override=server, scheme="http", region="us-east-1", allow_bucket_creation=True).create_dir(name)
    return f"s3://{name}/perdure?endpoint_override={server}&scheme=http&region=us-east-1"


@needs_moto
def test_turns_in_a_bucket_are_read_like_others(full: Store, bucket: str) -> None:
    before = readings(full)
    done = archive(full, NOW, quiet, to=bucket)
    assert done.shards[0].place.startswith(bucket.partition("?")[0] + "/turns-000000001-000000012-")
    assert [*(full.home / "history").iterdir()] == []
    assert in_database(full) == [4, 5]
    assert {**readings(full), "events": before["events"]} == before
    assert findings(full) == []
    with open_store(full.home) as other, ask_sql(other, "select count(*), sum(reward) from turns") as answer:
        assert (list(answer.rows), answer.lost) == ([(11, 6.5)], ())


@needs_moto
def test_home_and_bucket_together(store: Store, bucket: str) -> None:
    many(store, 2)
    archive(store, NOW, quiet)
    many(store, 2)
    archive(store, NOW, quiet, to=bucket, shard_turns=8)
    done_task(store, [1.0])
    assert len(shards(store)) == 3
    with ask_sql(store, "select count(*), count(distinct episode) from turns") as answer:
        assert list(answer.rows) == [(33, 33)]
    prune(store, Keep(episodes=13, live=0), quiet)
    with ask_sql(store, "select count(*), min(id) from episodes") as answer:
        assert list(answer.rows) == [(17, 17)], "a group stays whole"
    assert len(episodes_by_id(store, list(range(1, 34)))) == 17
    assert findings(store) == []


@needs_moto
def test_a_missing_or_changed_object_is_named(store: Store, bucket: str, tmp_path: Path) -> None:
    played = many(store, 3)
    archive(store, NOW, quiet, to=bucket, shard_turns=8)
    first, second, _ = (shard_place(store.home, shard.place) for shard in shards(store))
    first.filesystem.delete_file(first.path)
    with second.filesystem.open_input_stream(second.path) as stream:
        content = bytearray(stream.read())
    content[len(content) // 2] ^= 1
    time.sleep(1.1)  # an object's time is in whole seconds
    with second.filesystem.open_output_stream(second.path) as stream:
        stream.write(bytes(content))
    with pytest.raises(ShardLost, match=r"the shard s3://.* is missing"):
        get_episode(store, played[0])
    with pytest.raises(ShardLost, match=r"the shard s3://.* was changed or damaged"):
        get_episode(store, played[8])
    assert get_episode(store, played[16]).id == played[16]
    assert [level for level, rule, _ in findings(store) if rule == "history"] == ["error", "error"]
    assert (backup(store, tmp_path / "b.db").shards, [*tmp_path.glob("b.db.history")]) == (0, []), "a bucket is not copied"


@needs_moto
def test_what_was_begun_in_a_bucket_is_removed(store: Store, bucket: str) -> None:
    many(store, 1)
    archive(store, NOW, quiet, to=bucket)
    (shard,) = shards(store)
    left = shard_place(store.home, shard.place.replace("turns-", "left-"))
    with left.filesystem.open_output_stream(left.path) as stream:
        stream.write(b"half")
    begin(store, left.name)
    archive(store, NOW, quiet)
    assert (stamp(left), unfinished(store)) == (None, {})
    assert len(episodes_by_id(store, list(range(1, 9)))) == 8


@needs_moto
def test_a_bucket_that_is_not_there(full: Store, bucket: str) -> None:
    refused(full, bucket.replace("s3://", "s3://no-"), r"there is no bucket no-b\d+ at s3://no-b\d+/perdure")


def test_an_end_that_is_wrong(full: Store, keys: None) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    refused(full, f"s3://bucket/x?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1", "does not answer .*check the address")


def test_an_end_that_says_nothing(full: Store, keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        refused(full, f"s3://bucket/x?endpoint_override={address}&scheme=http&region=us-east-1", "does not answer")


@contextmanager
def one_that_hangs_up() -> Iterator[tuple[str, list[int]]]:
    """The address of an end that hangs up on everybody, and the ports of those who came."""
    came: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            with suppress(OSError):  # it is shut down
                while True:
                    caller, (_, port) = listening.accept()
                    came.append(port)
                    caller.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}", came
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_an_end_that_does_not_answer_is_asked_once_for_all_its_shards(store: Store, keys: None) -> None:
    many(store, 3)
    archive(store, NOW, quiet, shard_turns=8)
    with one_that_hangs_up() as (address, came):
        store.rows("UPDATE shard SET place = 's3://bucket/' || id || ?", (f"?endpoint_override={address}&scheme=http&region=us-east-1",))
        with pytest.raises(ShardLost, match="does not answer"):
            get_episode(store, 1)
        first = len(came)
        assert first
        assert len(lost_shards(store, shards(store))) == 3
        with ask_sql(store, "select count(*) from episodes") as answer:
            assert ([*answer.rows], len(answer.lost)) == ([(24,)], 3)
        assert all("did not answer just now" in why and "\n" not in why for why in answer.lost)
        assert len(came) == first


def test_an_end_that_is_something_else(full: Store, keys: None, tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert running.stdout is not None
        port = running.stdout.readline().decode().split(" port ")[1].split()[0]
        refused(full, f"s3://bucket/x?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1", "s3://bucket/x")
    finally:
        running.kill()
        running.communicate()


@needs_moto
def test_wrong_keys(full: Store, server: str, keys: None) -> None:
    check_keys_after(server, "0")
    try:
        refused(
            full, f"s3://private/x?endpoint_override={server}&scheme=http&region=us-east-2", "refuses the request: set AWS_ACCESS_KEY_ID"
        )
    finally:
        check_keys_after(server, "inf")


class _Private(BaseHTTPRequestHandler):
    """A store that lets nobody in without a signature."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.headers.get("Authorization") else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


def test_no_keys(full: Store, keys: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    for name in ("SHARED_CREDENTIALS_FILE", "CONFIG_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    with ThreadingHTTPServer(("127.0.0.1", 0), _Private) as private:
        thread = threading.Thread(target=private.serve_forever)
        thread.start()
        try:
            address = f"127.0.0.1:{private.server_address[1]}"
            refused(
                full, f"s3://private/x?endpoint_override={address}&scheme=http&region=eu-west-1", "refuses the request: set AWS_ACCESS_KEY"
            )
        finally:
            private.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("history/elsewhere", "is no address of a bucket"),
        ("s3://", "is no address of a bucket"),
        ("https://bucket/x", "is no address of a bucket"),
        ("s3://key:secret@bucket/x", "keys do not belong into an address, which is stored"),
        ("s3://bucket/x?password=1", "has the option 'password', which is not known"),
        ("s3://bucket/../x", "no folder of a bucket has"),
        ("s3://bucket/x#y", "no folder of a bucket has"),
    ],
)
def test_an_address_that_is_none(full: Store, address: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        archive(full, NOW, quiet, to=address)
    assert len(in_database(full)) == 12


@pytest.mark.parametrize("name", ["../perdure.db", "history/../perdure.db", "/etc/passwd", "history/", "versions/v1"])
def test_a_row_cannot_name_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="is no place of a shard"):
        shard_place(tmp_path, name)


def check_keys_after(server: str, requests: str) -> None:
    """Let the server check the keys of every request after so many."""
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"http://{server}/moto-api/reset-auth", data=requests.encode(), headers=headers, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


def refused(full: Store, address: str, says: str) -> None:
    """In one line, within the limit, and nothing has moved or is left behind."""
    before = time.monotonic()
    with pytest.raises(RuntimeFailure, match=says) as caught:
        archive(full, NOW, quiet, to=address)
    assert time.monotonic() - before < LIMIT_S
    assert "\n" not in str(caught.value)
    assert (len(in_database(full)), shards(full), unfinished(full)) == (12, [], {})
