"""Mistakes of our own: the client learns nothing of them, and the home's log all, within bounds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from perdure.agent.web.access import Access
from perdure.agent.web.crashes import FILE, MOST_BYTES, Crashes
from perdure.agent.web.tokens import Sessions

TOKEN = "0123456789abcdef"


def ask(app: Any, path: str, *messages: dict[str, Any], method: str = "GET", **headers: str) -> list[dict[str, Any]]:
    """What an application sends in answer to one request, whose body is `messages`."""
    sent: list[dict[str, Any]] = []
    coming = iter(messages or ({"type": "http.request", "body": b"", "more_body": False},))

    async def receive() -> dict[str, Any]:
        return next(coming, {"type": "http.disconnect"})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1", "authorization": f"Bearer {TOKEN}", **headers}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    asyncio.run(app(scope, receive, send))
    return sent


async def crashes(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("a secret of ours\x1b[31m <script>\u202e")


async def crashes_late(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ValueError("a secret of ours")


@pytest.mark.parametrize("path", ["/api/v1/status", "/versions/<script>"])
def test_a_mistake_is_one_line_to_the_client_and_a_traceback_in_the_log(tmp_path: Path, path: str) -> None:
    start, body = ask(Crashes(crashes, tmp_path), path)
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    assert start["status"] == 500
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]
    text = body["body"].decode()
    assert text.count("\n") <= 1
    assert not any(word in text for word in ("secret", "script", "ValueError", "Traceback", str(tmp_path)))
    log = (tmp_path / FILE).read_text()
    number = log.split()[3]
    assert f"GET {path}" in log.splitlines()[0]
    assert number in text
    assert "ValueError: a secret of ours" in log
    assert "in crashes" in log
    assert "\x1b" not in log
    assert "\u202e" not in log


def test_a_mistake_in_the_middle_of_an_answer_leaves_it_unfinished(tmp_path: Path) -> None:
    sent = ask(Crashes(crashes_late, tmp_path), "/")
    assert [message.get("more_body") for message in sent] == [None, True]
    assert "a secret of ours" in (tmp_path / FILE).read_text()


def test_the_log_of_mistakes_is_bounded(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("x" * (MOST_BYTES + 1))
    ask(Crashes(crashes, tmp_path), "/" + "y" * 10_000)
    assert (tmp_path / f"{FILE}.1").stat().st_size == MOST_BYTES + 1
    assert (tmp_path / FILE).stat().st_size < 10_000


def test_without_a_folder_for_logs_it_is_still_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, _ = ask(Crashes(crashes, tmp_path / "none"), "/")
    assert start["status"] == 500
    assert "ValueError" in capsys.readouterr().err


def test_half_a_body_is_not_taken_for_the_whole() -> None:
    called: list[str] = []

    async def acts(scope: Any, receive: Any, send: Any) -> None:
        called.append((await receive())["body"].decode())

    app = Access(acts, Sessions(TOKEN), ["127.0.0.1"])
    half = {"type": "http.request", "body": b"reason=because", "more_body": True}
    assert ask(app, "/act/rollback", half, method="POST") == []
    assert called == []
    ask(app, "/act/rollback", half, {"type": "http.request", "body": b"+of+that", "more_body": False}, method="POST")
    assert called == ["reason=because+of+that"]
