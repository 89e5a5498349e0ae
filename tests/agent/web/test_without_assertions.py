"""The hostile input of the other tests against a server without assertions (`python -O`): no wall may be an `assert`.

Tokens, hosts, origins, forms and redirects are asked of such a server in `test_who_may_ask.py`, the rest of what needs one in
`test_under_stress.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from html import unescape
from pathlib import Path
from re import findall
from urllib.parse import quote

import pytest
from tests.agent.web.pages.browser import PageSeen
from tests.agent.web.pages.test_untrusted import PAGES, evil_home
from tests.agent.web.servers import Server, read_all, serving

from perdure.agent.web.patience import HEAD_S
from perdure.memory.store import open_store

pytestmark = pytest.mark.processes

SQL = "v0'; DROP TABLE version; --"
REFUSED = {
    "/api/v1/episodes?limit=1000000000": 422,
    "/api/v1/versions?limit=1000000000": 422,
    "/api/v1/episodes/1?limit=1000000000": 422,
    "/api/v1/tasks?before=" + "9" * 5000: 422,
    "/api/v1/episodes?no_such=1": 422,
    f"/api/v1/episodes?environment={quote(SQL)}": 404,
    f"/api/v1/versions?before={quote(SQL)}": 422,
    f"/api/v1/versions/{quote(SQL, safe='')}": 422,
    f"/versions/{quote(SQL, safe='')}": 404,
    f"/retention/v0?environment={quote(SQL)}": 404,
    "/api/v1/versions/..%2f..%2fetc%2fpasswd": 404,
    "/api/v1/versions/%2e%2e": 422,
    "/versions/..%2f..%2frun%2ftoken": 404,
    "/api/v1/studies/..%2f..%2frun": 404,
    "/studies/%2e%2e": 404,
    "/static/..%2f..%2faccess.py": 404,
    "/tasks?state=%3Cb%3E": 422,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("evil") / "home"
    evil_home(home)
    with serving(home, python=("-O",)) as server:
        yield server


def test_numbers_and_names_that_nothing_has_are_refused(server: Server) -> None:
    browser = server.sign_in()
    told = {path: server.get(path, server.bearer if "/api/" in path else browser) for path in REFUSED}
    assert {path: answer.status for path, answer in told.items()} == REFUSED
    assert not any("root:" in answer.text or server.token in answer.text or "Traceback" in answer.text for answer in told.values())
    with open_store(server.home) as store:
        assert [row["name"] for row in store.rows("SELECT name FROM version")] == ["v0"]


def test_what_others_wrote_is_inert(server: Server) -> None:
    browser = server.sign_in()
    paths = [*PAGES, "/episodes", "/episodes/1", "/episodes/1/turns/0", "/versions", "/retention"]
    links = findall(r'<a href="(/environments\?name=py[^"]*)"', server.get("/environments", browser).text)
    assert links
    for path in (*paths, unescape(links[0])):
        answer = server.get(path, browser)
        page = PageSeen(answer.status, answer.headers, answer.text)
        assert (page.status, page.left_open, page.styled) == (200, [], []), path
        assert all(source is not None and source.startswith("/static/") for source in page.scripts), path
        assert "<img" not in page.html, path
        assert not set(page.text + "".join(page.told)) & set("\x1b\x07\u202e\u2066\u200b"), path
        assert len(page.html) < 300_000, path


def test_a_head_that_comes_slowly_is_not_waited_for(server: Server) -> None:
    with server.raw() as connection:
        connection.settimeout(HEAD_S + 10)
        began = time.monotonic()
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        for _ in range(4):
            with suppress(OSError):
                connection.sendall(b"x")
            time.sleep(0.5)
        read_all(connection)
    assert time.monotonic() - began < HEAD_S + 5
    assert server.get("/livez").status == 200


def test_nothing_of_this_is_in_its_log(server: Server) -> None:
    assert "Traceback" not in server.said()
    assert not (server.home / "logs" / "errors.log").exists()
