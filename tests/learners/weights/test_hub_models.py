"""Models of a hub, against a small hub on loopback: what is fetched, and which revision a home uses."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from safetensors.torch import load_file, save_file
from tests.tiny_models import tiny_llama

from perdure.learners.weights.hub_models import PINS, is_hub_id

FIRST, SECOND = "1" * 40, "2" * 40
RESOLVE = """
import sys
from pathlib import Path
from perdure.learners.weights.base_models import resolve_model
from perdure.memory.errors import PerdureError
try:
    files = resolve_model(sys.argv[1], Path(sys.argv[2]), print, Path(sys.argv[3]))
    print(files.path.name, files.hash)
except PerdureError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "model")


class Hub(BaseHTTPRequestHandler):
    """Serves the revisions of 'owner/tiny' as a model hub does. Asked for 'main', it gives `newest`."""

    revisions: ClassVar[dict[str, dict[str, bytes]]] = {}
    newest: ClassVar[str] = FIRST
    fetched: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:4] == ["api", "models", "owner", "tiny"]:
            commit = self._commit(parts[5] if len(parts) > 5 else "main")
            files = self.revisions.get(commit, {})
            answer: object = {"id": "owner/tiny", "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            if parts[4:5] == ["tree"]:
                answer = [{"type": "file", "path": name, "size": len(body), "oid": digest(body)} for name, body in files.items()]
            self._send(json.dumps(answer).encode(), commit, with_body)
        elif parts[:3] == ["owner", "tiny", "resolve"]:
            commit, name = self._commit(parts[3]), "/".join(parts[4:])
            if with_body:
                self.fetched.append(name)
            self._send(self.revisions[commit].get(name), commit, with_body)
        else:
            self._send(None, "", with_body)

    def _commit(self, revision: str) -> str:
        return self.newest if revision == "main" else revision

    def _send(self, content: bytes | None, commit: str, with_body: bool) -> None:
        self.send_response(404 if content is None else 200)
        body = content or b""
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{digest(body)}"')
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@contextmanager
def hub(revisions: dict[str, dict[str, bytes]], newest: str) -> Iterator[str]:
    """The address of a hub."""
    Hub.revisions, Hub.newest, Hub.fetched = revisions, newest, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def resolve(address: str, model: str, cache: Path, home: Path) -> str:
    """What `resolve_model` says at last, in a process of its own: the hub's address is read when its client is imported."""
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RESOLVE, model, str(cache), str(home)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip().splitlines()[-1]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_home_uses_the_revision_that_it_began_with_for_ever(model: Path, tmp_path: Path) -> None:
    first = files_of(model)
    edited = {**first, "chat_template.jinja": b"{{ messages[0]['content'] }}"}
    cache, home = tmp_path / "cache", tmp_path / "home"
    with hub({FIRST: first}, FIRST) as address:
        began = resolve(address, "owner/tiny", cache, home)
    assert began.startswith(FIRST)
    assert json.loads((home / PINS).read_text()) == {"owner/tiny": FIRST}
    assert resolve("http://127.0.0.1:1", "owner/tiny", cache, home) == began, "what is cached needs no hub"
    with hub({FIRST: first, SECOND: edited}, SECOND) as address:
        assert resolve(address, "owner/tiny", cache, home) == began
        assert Hub.fetched == []
        assert resolve(address, "owner/tiny", tmp_path / "another-cache", home) == began, "as after the cache was lost"
        assert resolve(address, "owner/tiny", tmp_path / "third-cache", tmp_path / "new-home").startswith(SECOND)
        assert resolve(address, f"owner/tiny@{FIRST}", tmp_path / "fourth-cache", tmp_path / "named-home") == began


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_only_the_weights_that_the_index_names_are_fetched(model: Path, tmp_path: Path) -> None:
    content = files_of(model)
    weights = load_file(model / "model.safetensors")
    save_file(weights, tmp_path / "shard.safetensors", {"format": "pt"})
    del content["model.safetensors"]
    content["model-00001-of-00001.safetensors"] = (tmp_path / "shard.safetensors").read_bytes()
    content["model.safetensors.index.json"] = json.dumps(
        {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    ).encode()
    content["consolidated.safetensors"] = content["pytorch_model.bin"] = b"twice as much to fetch"
    with hub({FIRST: content}, FIRST) as address:
        assert resolve(address, "owner/tiny", tmp_path / "cache", tmp_path / "home").startswith(FIRST)
    assert "model-00001-of-00001.safetensors" in Hub.fetched
    assert not {"consolidated.safetensors", "pytorch_model.bin"}.intersection(Hub.fetched)


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_a_hub_that_cannot_be_reached_and_a_cache_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    said = resolve("http://127.0.0.1:1", "owner/tiny", tmp_path / "cache", tmp_path / "home")
    assert said.startswith("RuntimeFailure could not fetch 'owner/tiny' from the model hub")
    (tmp_path / "file").write_text("")
    said = resolve("http://127.0.0.1:1", "owner/tiny", tmp_path / "file", tmp_path / "home")
    assert said.startswith("InputError the model cache")


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("owner/name", True),
        ("owner/name@main", True),
        ("owner/name@refs/pr/1", True),
        ("name", False),
        ("a/b/c", False),
        ("./a", False),
        ("/a", False),
        ("~/a", False),
        ("owner/", False),
        ("owner/@main", False),
    ],
)
def test_what_is_a_hub_id(model: str, expected: bool) -> None:
    assert is_hub_id(model) is expected
