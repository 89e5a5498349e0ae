"""`perdure web` over homes as they are: none yet, empty, of an older schema, read-only, in use, another user's."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.conftest import Call
from tests.agent.stand_ins import Place, plays
from tests.agent.web.servers import Server, free_port, serving, wait_for

from perdure.agent.config import Config
from perdure.agent.config_file import LoadedConfig
from perdure.agent.doctor import Check, page_check
from perdure.memory.environments import register
from perdure.memory.schema import MIGRATIONS
from perdure.memory.store import create_store
from perdure.memory.versions import add_initial

pytestmark = pytest.mark.processes

NOBODY = 65534


def make_home(home: Path) -> None:
    with create_store(home) as store:
        register(store, "perdure:add")
        add_initial(store, "tiny", "hash-of-tiny")


def test_a_home_that_nothing_has_run_in_is_told_so_and_is_shown_once_it_is_there(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(home) as server:
        assert f"serves {home}; Ctrl-C ends it" in server.said()
        answer = server.get("/api/v1/status")
        assert answer.status == 503
        assert answer.json() == {"error": f"nothing has run in {home} yet: `perdure run` makes its store, and this page then shows it"}
        page = server.get("/", server.sign_in())
        assert (page.status, "Nothing has run here yet" in page.text) == (200, True)
        assert server.get("/readyz", {}).status == 503
        assert server.get("/livez", {}).status == 200
        make_home(home)
        assert server.get("/api/v1/status").json()["serving"] == "v0"
        ready = server.get("/readyz", {})
        assert (ready.status, "no daemon runs" in ready.text) == (503, True)
        assert 'serving="v0"' in server.get("/metrics", {}).text
        shutil.rmtree(home)
        wait_for("nobody to be let in", lambda: server.get("/login", {}).status == 200 and not home.exists())
    assert not home.exists(), "a home that is gone is not made anew"


def test_a_home_of_an_older_schema_is_told_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    create_store(home, MIGRATIONS[:-1]).close()
    with serving(home) as server:
        answer = server.get("/api/v1/status")
        assert answer.status == 503
        assert f"has schema {len(MIGRATIONS) - 1}, this program needs {len(MIGRATIONS)}: start `perdure run` once" in answer.text
        assert server.get("/readyz", {}).status == 503


def without_rights() -> tuple[str, ...]:
    """Runs a program as a user who may do no more than others; root itself could not run this Python as another."""
    return ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


def read_only(folder: Path) -> tuple[str, ...]:
    """Runs a program that sees this folder on a file system that is read-only, and no other program does."""
    return ("unshare", "-m", "sh", "-c", f'mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && exec "$@"', "sh")


def works(prefix: tuple[str, ...]) -> bool:
    return os.geteuid() == 0 and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0


def test_a_read_only_home_is_served_if_it_has_a_token(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_home(home)
    if not works(read_only(home)):
        pytest.skip("this machine lets nobody mount")
    done = subprocess.run([*read_only(home), *web(home)], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert re.fullmatch(
        r"perdure: cannot make the token file .*/run/token: Read-only file system; name another with web.token_file\n", done.stderr
    )
    token = home / "run" / "token"
    token.touch(0o600)
    token.write_text("0123456789abcdef")
    with serving(home, prefix=read_only(home)) as server:
        assert server.get("/api/v1/status").json()["serving"] == "v0"
        assert server.get("/", server.sign_in()).status == 200


def test_the_home_of_another_user_is_served_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    if not works(without_rights()):
        pytest.skip("only root can give a folder away")
    home, token = tmp_path / "home", tmp_path / "token"
    make_home(home)
    token.touch(0o600)
    token.write_text("0123456789abcdef")
    for place in (home, *home.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
        os.chown(place, NOBODY, NOBODY)
    bearer = {"Authorization": f"Bearer {token.read_text()}"}
    settings = f"token_file = '{token}'\n"
    with serving(home, settings, prefix=without_rights()) as server:
        assert server.get("/api/v1/status", bearer).json()["serving"] == "v0"
        home.chmod(0o700)
        wait_for("a status that is not the last moment's", lambda: server.get("/api/v1/status", bearer).status == 503)
        answer = server.get("/api/v1/status", bearer)
        assert answer.json() == {"error": f"cannot read the home {home}: Permission denied; serve it as the user whose home it is"}
    done = subprocess.run([*without_rights(), *web(home)], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "home' is not readable" in done.stderr, done.stderr.count("\n")) == (2, True, 1)


def web(home: Path, *options: str) -> list[str]:
    return [sys.executable, *options, "-m", "perdure", "web", "--home", str(home)]


def test_beside_a_daemon_that_has_the_port_it_says_so_in_one_line(place: Place) -> None:
    server = Server(home=place.home, port=free_port())
    place.daemon(place.actor("play(store, pulse)"), f"[web]\nport = {server.port}\n", page="perdure.agent.web.program")
    place.wait("play", plays)
    wait_for("the page", server.answers)
    done = subprocess.run(web(Path("home")), cwd=place.path, capture_output=True, text=True, timeout=60)
    why = f"perdure: port {server.port} of 127.0.0.1 is in use by another program: choose another with web.port\n"
    assert (done.returncode, done.stderr, done.stdout) == (3, why, "")
    with serving(place.home) as other:
        assert other.get("/api/v1/status").json()["page"]["address"] == f"http://127.0.0.1:{server.port}"
    assert server.answers()


def test_other_machines_may_ask_only_with_a_token_that_somebody_made(perdure: Call, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for host in ("0.0.0.0", "::", "0", "10.0.0.1", "example.invalid", "localhost.example"):
        (tmp_path / "perdure.toml").write_text(f"[web]\nhost = '{host}'\n")
        found = perdure("web", "--home", str(home))
        assert (found.code, found.out) == (2, ""), host
        why = "lets other machines ask, and there is no token yet: make one first, as by `(umask"
        assert found.err.startswith(f"perdure: web.host = '{host}' {why}")
        assert found.err.count("\n") == 1
        assert not home.exists()


def test_they_may_not_without_assertions_either_and_may_with_a_token(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "perdure.toml").write_text(f"[web]\nhost = '0.0.0.0'\nport = {free_port()}\n")
    done = subprocess.run(web(home, "-O"), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, home.exists()) == (2, False)
    made = re.search(r"`(\(umask .*\))`", done.stderr)
    assert made is not None
    subprocess.run(["sh", "-c", made[1]], check=True)
    with serving(home, "host = '0.0.0.0'\n", python=["-O"]) as server:
        assert server.get("/api/v1/status").status == 503
        assert server.get("/api/v1/status", {}).status == 401


def test_what_it_cannot_serve_is_one_line(perdure: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = ("--home", str(tmp_path / "home"))
    (tmp_path / "perdure.toml").write_text("[web]\nhost = '192.0.2.1'\ntoken_file = 'token'\n")
    (tmp_path / "token").touch(0o600)
    (tmp_path / "token").write_text("0123456789abcdef")
    found = perdure("web", *home)
    assert (found.code, found.out) == (2, "")
    assert found.err == "perdure: cannot listen on 192.0.2.1:8377: Cannot assign requested address; choose others with web.host, web.port\n"
    (tmp_path / "token").chmod(0o644)
    found = perdure("web", *home)
    assert (found.code, "others can read the token file token: `chmod 600 token`" in found.err) == (2, True)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    found = perdure("web", *home)
    assert (found.code, found.err) == (2, "perdure: the page needs uvicorn: `pip install 'perdure[web]'`, or set web.enabled = false\n")


def test_the_doctor_says_whether_there_can_be_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(**settings: object) -> Check:
        loaded = LoadedConfig(config=Config.model_validate({"web": settings}), origins={}, path=None)
        return page_check(tmp_path / "home", loaded)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        why = f"port {port} of 127.0.0.1 is in use by another program: choose another with web.port"
        assert check(port=port) == Check(name="page", level="warning", found=why)
    assert check(port=port) == Check(name="page", level="ok", found=f"http://127.0.0.1:{port}")
    assert check(host="0.0.0.0").level == "error"
    assert check(enabled=False) == Check(name="page", level="ok", found="none: web.enabled is false")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    remedy = "python -m pip install 'perdure[web]', or set web.enabled = false"
    assert check(port=port) == Check(name="page", level="warning", found="none, it needs fastapi", remedy=remedy)
