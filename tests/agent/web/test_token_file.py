"""The token's file: who may read it, what may be in it, and what happens when it is replaced while the page is served."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.agent.web.servers import serving, wait_for

from perdure.agent.web.tokens import SESSION_S, Sessions, TokenFile, read_or_make_token, read_token
from perdure.memory.errors import InputError, RuntimeFailure

TOKEN = "0123456789abcdef"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "token"


def test_a_token_is_made_once_and_only_its_owner_reads_it(path: Path) -> None:
    umask = os.umask(0)
    try:
        token = read_or_make_token(path)
    finally:
        os.umask(umask)
    assert (len(token), read_or_make_token(path)) == (43, token)
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)


def test_a_file_that_others_can_read_is_refused(path: Path) -> None:
    read_or_make_token(path)
    for mode in (0o644, 0o604, 0o602, 0o601):
        path.chmod(mode)
        with pytest.raises(InputError, match=r"others can read the token file .*: `chmod 600 "):
            read_or_make_token(path)
    path.chmod(0o640)
    assert read_or_make_token(path), "a group may, as in a container"


def test_a_link_is_followed_only_if_its_place_was_named(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "secret"
    target.touch(0o600)
    target.write_text(TOKEN + "\n")
    path.parent.mkdir()
    path.symlink_to(target)
    with pytest.raises(InputError, match=r"is a link: delete it to have one made, or name its target with web.token_file"):
        read_or_make_token(path)
    assert read_or_make_token(path, links=True) == TOKEN, "as a secret of Kubernetes is mounted"
    target.chmod(0o644)
    with pytest.raises(InputError, match="others can read"):
        read_or_make_token(path, links=True)
    target.unlink()
    for links in (False, True):
        with pytest.raises((InputError, RuntimeFailure)):
            read_or_make_token(path, links=links)
    assert not target.exists(), "nothing is written where a link leads"


@pytest.mark.parametrize("text", ["", "short", "fifteen letters", "with blanks 0123456789", "ünïcödé-0123456789", "a" * 401, "a\0" * 10])
def test_what_is_no_token_is_refused(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(InputError, match="delete it to have one made"):
        read_token(path)


def test_what_is_no_file_is_refused_at_once(path: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(InputError):
        read_token(path)
    path.unlink()
    path.mkdir(0o700)
    with pytest.raises((InputError, RuntimeFailure)):
        read_token(path)
    with pytest.raises(RuntimeFailure, match=r"name another with web.token_file"):
        read_or_make_token(Path("/proc/nowhere/token"))


def test_a_session_ends_and_is_bound_to_its_token() -> None:
    sessions, other = Sessions(TOKEN), Sessions(TOKEN + "0")
    cookie = sessions.begin(now_s=1000.0)
    assert sessions.holds(cookie, now_s=1000.0 + SESSION_S - 1)
    assert not sessions.holds(cookie, now_s=1000.0 + SESSION_S)
    assert not other.holds(cookie, now_s=1000.0)
    until, salt, mark = cookie.split(".")
    for wrong in ("", ".", "..", f"9{until}.{salt}.{mark}", f"{until}.x.{mark}", f"{until}.{salt}.", f"٣{until}.{salt}.{mark}", "ü" * 50):
        assert not sessions.holds(wrong, now_s=1000.0)
    assert sessions.is_form_mark(cookie, sessions.form_mark(cookie))
    assert not sessions.is_form_mark(cookie, sessions.form_mark(sessions.begin()))
    assert not sessions.is_form_mark(cookie, mark)


def test_another_token_in_the_file_ends_what_the_old_one_began(path: Path) -> None:
    sessions = Sessions(read_or_make_token(path))
    file = TokenFile(path, sessions, links=False)
    cookie = sessions.begin()
    assert file.look() is None
    assert sessions.holds(cookie)

    path.write_text(TOKEN + "\n")
    assert file.look() is None
    assert (sessions.is_token(TOKEN.encode()), sessions.holds(cookie)) == (True, False)

    path.chmod(0o644)
    assert "others can read" in str(file.look())
    assert file.look() is None, "that is said once"
    assert not sessions.is_token(TOKEN.encode())
    assert not sessions.holds(sessions.begin())
    assert not sessions.is_token(b"")

    path.unlink()
    assert file.look() is None
    assert sessions.is_token(path.read_bytes().strip()), "it was made anew"

    path.unlink()
    path.parent.rmdir()
    assert "cannot read the token file" in str(file.look())
    assert file.look() is None, "that is said once too"
    assert not path.parent.exists(), "a home that is gone stays gone"


@pytest.mark.processes
def test_a_token_is_replaced_without_a_new_start(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as server:
        browser, old = server.sign_in(), server.bearer
        assert server.get("/login", browser).status == 200
        new = tmp_path / "home" / "run" / "new"
        new.touch(0o600)
        new.write_text(TOKEN)
        new.replace(tmp_path / "home" / "run" / "token")
        wait_for("the new token to count", lambda: server.get("/api/v1/status", old).status == 401, patience_s=5)
        assert server.get("/api/v1/status").status == 503, "let in, to a home without a store"
        assert server.get("/", browser).status == 303
        new.parent.joinpath("token").chmod(0o644)
        wait_for("nobody to be let in", lambda: server.get("/api/v1/status").status == 401, patience_s=5)
        assert "others can read the token file" in server.said()
