"""The token that the API and the pages ask for, and what is derived from it: sessions of browsers, and marks of their forms.

The token is one line in a file that its owner alone can read, `run/token` in the home unless `web.token_file` names another. It is made at
the first start. Another token in the file counts within a second, without a new start, and ends all sessions; so does deleting the file,
which is made anew. Left out: who asks for it (`access.py`).
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import os
import secrets
import stat
import time
from pathlib import Path

from perdure.memory.errors import InputError, PerdureError, RuntimeFailure

SESSION_S = 7 * 24 * 3600
"""How long a browser stays signed in."""
SAID_S = 60
"""How long a page may be told what a form did."""
SHORTEST = 16
LONGEST = 400
"""Characters of a token that an operator chose."""


def token_path(home: Path, token_file: str) -> Path:
    """Where the token of a home is."""
    return Path(token_file).expanduser() if token_file else home / "run" / "token"


def read_or_make_token(path: Path, *, links: bool = False, setting: str = "web.token_file") -> str:
    """The token in this file, which is made with a new one if it is missing. `links`: the file may be a link to it.

    `setting` names another file.

    Raises `InputError` if others can read the file or its token is too short, and `RuntimeFailure` if it cannot be read or made.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return read_token(path, links=links, setting=setting)
    except OSError as error:
        raise RuntimeFailure(f"cannot make the token file {path}: {error.strerror}; name another with {setting}") from error
    token = secrets.token_urlsafe(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(descriptor)
    return token


def read_token(path: Path, *, links: bool = False, setting: str = "web.token_file") -> str:
    """The token in a file that is there. Raises as `read_or_make_token` does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if links else os.O_NOFOLLOW))
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
            mode = os.fstat(descriptor).st_mode
            token = file.readline(LONGEST + 2).strip() if stat.S_ISREG(mode) else ""
    except OSError as error:
        if error.errno == errno.ELOOP and not links:
            raise InputError(f"the token file {path} is a link: delete it to have one made, or name its target with {setting}") from error
        raise RuntimeFailure(f"cannot read the token file {path}: {error.strerror}; name another with {setting}") from error
    if not stat.S_ISREG(mode) or mode & 0o007:
        raise InputError(f"others can read the token file {path}: `chmod 600 {path}`, or delete it to have a new one made")
    if not SHORTEST <= len(token) <= LONGEST or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"the token in {path} is not {SHORTEST} to {LONGEST} letters, digits and signs on one line: delete it to have one made"
        )
    return token


class Sessions:
    """What a browser holds in place of the token: a cookie that says until when, signed with the token. Nothing is stored."""

    def __init__(self, token: str) -> None:
        self._key: bytes | None = token.encode()

    def use(self, token: str | None) -> None:
        """From now on this is the token, and no session of before holds; None: nobody is let in."""
        self._key = None if token is None else token.encode()

    def is_token(self, given: bytes) -> bool:
        """Whether this is the token; takes as long for every wrong one."""
        return self._key is not None and hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(self._key).digest())

    def begin(self, name: str = "", now_s: float | None = None) -> str:
        """The cookie of a new session, of a person who gave this name."""
        until = str(int((time.time() if now_s is None else now_s) + SESSION_S))
        salt = f"{secrets.token_urlsafe(9)}~{base64.urlsafe_b64encode(name.encode(errors='replace')).decode().rstrip('=')}"
        return f"{until}.{salt}.{self._sign(f'session {until} {salt}')}"

    def holds(self, cookie: str, now_s: float | None = None) -> bool:
        """Whether a cookie is of a session that has not ended."""
        if self._key is None:
            return False
        until, _, rest = cookie.partition(".")
        salt, _, mark = rest.partition(".")
        if not until.isascii() or not until.isdigit() or len(until) > 12 or not cookie.isascii():
            return False
        signed = hmac.compare_digest(mark.encode(), self._sign(f"session {until} {salt}").encode())
        return signed and (time.time() if now_s is None else now_s) < int(until)

    def name_in(self, cookie: str) -> str:
        """The name that the person of a session that holds gave; empty if they gave none. Nobody has checked it."""
        _, _, told = cookie.partition(".")[2].partition(".")[0].partition("~")
        return base64.urlsafe_b64decode(told + "=" * (-len(told) % 4)).decode()

    def form_mark(self, cookie: str) -> str:
        """What every form of this session carries, so that a page of another site cannot send one."""
        return self._sign(f"form {cookie}")

    def is_form_mark(self, cookie: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="replace"), self.form_mark(cookie).encode())

    def seal(self, cookie: str, text: str, now_s: float | None = None) -> str:
        """A text that this session can be shown for a minute, and that nobody else can have written."""
        until = str(int((time.time() if now_s is None else now_s) + SAID_S))
        told = base64.urlsafe_b64encode(text.encode(errors="replace")).decode()
        return f"{until}.{told}.{self._sign(f'said {cookie} {until} {told}')}"

    def unsealed(self, cookie: str, sealed: str, now_s: float | None = None) -> str | None:
        """The text; None if it is not of this session, or old."""
        until, _, rest = sealed.partition(".")
        told, _, mark = rest.partition(".")
        if not sealed.isascii() or not hmac.compare_digest(mark.encode(), self._sign(f"said {cookie} {until} {told}").encode()):
            return None
        return base64.urlsafe_b64decode(told).decode() if (time.time() if now_s is None else now_s) < int(until) else None

    def _sign(self, text: str) -> str:
        return hmac.new(self._key or secrets.token_bytes(32), text.encode(), hashlib.sha256).hexdigest()


class TokenFile:
    """The file, looked at again and again: who replaces it replaces the token of `sessions`."""

    def __init__(self, path: Path, sessions: Sessions, *, links: bool) -> None:
        self._path = path
        self._sessions = sessions
        self._links = links
        self._seen: tuple[int, ...] | None = ()
        self._trouble = ""

    def look(self) -> str | None:
        """Take over what the file says now, if it has changed. Says what is wrong with it; nobody is let in until that is mended."""
        now = self._stamp()
        if now == self._seen:
            return None
        self._seen = now or ()  # one that is missing is looked for again
        try:
            made = now is None and self._path.parent.is_dir()  # a home that was deleted is not made anew
            self._sessions.use((read_or_make_token if made else read_token)(self._path, links=self._links))
        except PerdureError as error:
            self._sessions.use(None)
            known, self._trouble = self._trouble, str(error)
            return None if self._trouble == known else self._trouble
        self._trouble = ""
        return None

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode
