"""Who may ask a real server, and how: every refusal of a request that no person of ours sent. Also without assertions (python -O)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.agent.web.servers import Server, read_all, serving

from perdure.agent.web.access import LONGEST_BODY_BYTES
from perdure.agent.web.tokens import Sessions
from perdure.memory.environments import register
from perdure.memory.store import create_store
from perdure.memory.versions import add_initial

pytestmark = pytest.mark.processes

STATUS = "/api/v1/status"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module", params=[(), ("-O",)], ids=["python", "python-O"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home: Path = tmp_path_factory.mktemp("served") / "home"
    with create_store(home) as store:
        register(store, "perdure:add")
        add_initial(store, "tiny", "hash-of-tiny")
    with serving(home, "allowed_hosts = ['perdure.example']", python=request.param) as server:
        yield server


def test_the_token_and_only_the_token_opens_the_api(server: Server) -> None:
    assert server.get(STATUS).json()["serving"] == "v0"
    wrong = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {server.token[:-1]}"},
        {"Authorization": f"Basic {server.token}"},
        {"Authorization": server.token},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer " + "ü" * 43},
        {"Cookie": f"perdure_session={server.token}"},
        {"Cookie": f"perdure_session={Sessions('another token, not ours').begin()}"},
        {"X-Token": server.token},
    ]
    for headers in wrong:
        answer = server.get(STATUS, headers)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), headers
        assert server.token not in answer.text
        assert answer.json().keys() == {"error"}


def test_bytes_that_are_no_text_are_a_wrong_token(server: Server) -> None:
    for given in (b"\xff\xfe\xfd", b"\xe2\x98\x83", b"Bearer \xff"):
        with server.raw() as connection:
            head = b"GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer "
            connection.sendall(head + given + b"\r\n\r\n")
            assert read_all(connection).startswith(b"HTTP/1.1 401 ")


def test_a_token_in_an_address_counts_for_nothing(server: Server) -> None:
    for name in ("token", "access_token", "key", "authorization"):
        assert server.get(f"{STATUS}?{name}={server.token}", {}).status == 401
    assert server.get(f"/?token={server.token}", {}).status == 303


def test_a_page_of_another_name_is_refused_whatever_it_knows(server: Server) -> None:
    """DNS rebinding: a name of an attacker that leads to this machine."""
    for host in ("evil.example", "evil.example:8377", "127.0.0.1.evil.example", "user@127.0.0.1", "", "[::1", "perdure.example.evil"):
        assert server.get(STATUS, server.bearer | {"Host": host}).status == 403, host
        assert server.get("/login", {"Host": host}).status == 403, host
    for host in ("127.0.0.1", "LOCALHOST:1", "[::1]:8377", "perdure.example", "Perdure.Example:443"):
        assert server.get(STATUS, server.bearer | {"Host": host}).status == 200, host
    for path, status in (("/livez", 200), ("/readyz", 503), ("/metrics", 200)):
        assert server.get(path, {"Host": "10.1.2.3:8377"}).status == status, "a probe sends the address of the pod"


def test_a_request_of_two_hosts_or_of_none_is_refused(server: Server) -> None:
    for lines in (b"HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example", b"HTTP/1.1", b"HTTP/1.0"):
        with server.raw() as connection:
            connection.sendall(b"GET /login " + lines + b"\r\nConnection: close\r\n\r\n")
            assert re.match(rb"HTTP/1.1 40[03] ", read_all(connection)), lines


def test_a_browser_writes_only_from_a_page_of_ours(server: Server) -> None:
    right = {"Origin": f"http://127.0.0.1:{server.port}"}
    wrong = [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": f"http://127.0.0.1:{server.port + 1}"},
        {"Origin": f"http://127.0.0.1:{server.port}.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        right | {"Sec-Fetch-Site": "cross-site"},
    ]
    for headers in wrong:
        assert server.ask("POST", "/act/login", FORM | headers, f"token={server.token}").status == 403, headers
        assert server.ask("POST", STATUS, server.bearer | headers).status == 403, headers
    assert server.ask("POST", "/act/login", FORM | right, f"token={server.token}").status == 303


def test_a_form_of_another_site_does_nothing(server: Server) -> None:
    browser = server.sign_in()
    mark = re.search(r'name="csrf" value="([0-9a-f]+)"', server.get("/", browser).text)
    assert mark is not None
    foreign = browser | FORM | {"Origin": "http://evil.example"}
    assert server.ask("POST", "/act/logout", foreign, f"csrf={mark[1]}").status == 403
    other = re.search(r'name="csrf" value="([0-9a-f]+)"', server.get("/", server.sign_in()).text)
    assert other is not None
    for body in ("", "csrf=", "csrf=" + "0" * 64, "csrf=%C3%BC", f"csrf={other[1]}"):
        answer = server.ask("POST", "/act/logout", browser | FORM, body)
        assert answer.status in (403, 422), body
        assert "set-cookie" not in answer.headers
    assert server.ask("POST", "/act/logout", browser | FORM, f"csrf={mark[1]}").status == 303


def test_a_browser_reads_the_api_and_does_not_write_it(server: Server) -> None:
    browser = server.sign_in()
    assert server.get(STATUS, browser).status == 200
    assert server.ask("POST", STATUS, browser).status == 401


def test_the_cookie_is_for_this_site_and_no_script(server: Server) -> None:
    answer = server.ask("POST", "/act/login", FORM, f"token={server.token}")
    parts = {part.strip().lower().partition("=")[0]: part.strip() for part in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite", "max-age", "path"} <= parts.keys()
    assert parts["samesite"].lower() == "samesite=strict"
    assert server.token not in answer.headers["set-cookie"]
    wrong = server.ask("POST", "/act/login", FORM, "token=%3Cscript%3E%00")
    assert (wrong.status, "set-cookie" in wrong.headers) == (401, False)


def test_no_answer_leads_elsewhere(server: Server) -> None:
    browser = server.sign_in()
    paths = (
        "//evil.example",
        "//evil.example/",
        "/\\evil.example/",
        "/login/",
        "/login?next=//evil.example",
        "///",
        "/static",
        "/%2f%2fevil",
    )
    for path in paths:
        for headers in ({}, browser, browser | {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}):
            answer = server.get(path, headers)
            assert answer.headers.get("location", "/login") == "/login", path
    posted = server.ask("POST", "/act/login?next=//evil.example", FORM, f"token={server.token}&next=//evil.example")
    assert posted.headers["location"] == "/"


def test_files_beside_the_static_ones_are_not_served(server: Server) -> None:
    for path in ("/static/../access.py", "/static/%2e%2e/access.py", "/static//etc/passwd", "/static/..%2faccess.py", "/static/"):
        answer = server.get(path, {})
        assert answer.status in (400, 404), path
        assert b"Authorization" not in answer.body
    assert server.get("/static/../api/v1/status", {}).status == 404


def test_every_answer_forbids_frames_guessing_and_other_sources(server: Server) -> None:
    for path in ("/", "/login", STATUS, "/nowhere", "/livez", "/static/perdure.css"):
        for headers in ({}, server.bearer, {"Host": "evil.example"}):
            answer = server.get(path, headers)
            assert "default-src 'self'" in answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "server" not in answer.headers


def test_a_body_that_is_too_long_is_refused_before_it_is_read(server: Server) -> None:
    began = time.monotonic()
    for length in (LONGEST_BODY_BYTES + 1, 10**9, 10**18):
        with server.raw() as connection:
            head = f"POST /act/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
            connection.sendall(head.encode() + b"token=")
            assert read_all(connection).startswith(b"HTTP/1.1 413 "), length
    assert time.monotonic() - began < 25
    with server.raw() as connection:
        connection.sendall(b"POST /act/login HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        try:
            for _ in range(1000):
                connection.sendall(chunk)
        except ConnectionError:
            pass
        else:
            pytest.fail("32 MB were taken")
    assert server.get("/livez").status == 200


def test_a_body_without_a_length_is_none(server: Server) -> None:
    with server.raw() as connection:
        head = (
            b"POST /act/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(head + f"token={server.token}".encode())
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert b"set-cookie" not in answer.lower()


def test_what_is_no_request_is_refused_in_one_line(server: Server) -> None:
    long = b"x" * 2**20
    for text in (
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: " + long + b"\r\n\r\n",
        b"GET /" + long + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(100_000)) + b"\r\n",
        b"POST /act/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /act/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\ntoken",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\r\n b\r\n c\x00\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ):
        with server.raw() as connection:
            with suppress(ConnectionError):
                connection.sendall(text)
            answer = read_all(connection)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 "), text[:60]
        assert b"Traceback" not in answer
    assert server.get("/livez").status == 200


def test_requests_in_one_piece_are_answered_one_by_one_and_none_hides_in_another(server: Server) -> None:
    get = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n"
    with server.raw() as connection:
        connection.sendall(get % (b"/livez", b"") * 50 + get % (b"/api/v1/status", b"Connection: close\r\n"))
        answers = read_all(connection)
    assert re.findall(rb"HTTP/1.1 (\d+) ", answers) == [b"200"] * 50 + [b"401"]
    hidden = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with server.raw() as connection:
        head = b"POST /act/login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        connection.sendall(head % (5 + len(hidden)) + hidden + get % (b"/livez", b"Connection: close\r\n"))
        answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 200") <= 2, "as one of the two readings of its length has it"


def test_the_log_of_all_this_has_no_traceback_and_no_token(server: Server) -> None:
    server.get(STATUS, {"Authorization": f"Bearer {server.token}x"})
    said = server.said()
    assert "Traceback" not in said
    assert server.token not in said
    assert not (server.home / "logs" / "errors.log").exists()
