"""The journal over HTTP: who may ask, what is too much, who else may have the port, and many who write at once."""

from __future__ import annotations

import http.client
import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.agent.cluster.head_place import WALK, Head, acknowledged_once, head_in, journal_here, queue
from tests.agent.cluster.players_side import bringing, ending, plan, saying, starting, turn
from tests.agent.cluster.scripted_player import BASE_HASH

import perdure
from perdure.agent.cluster.cluster_settings import ClusterSection
from perdure.agent.cluster.journal.journal_client import JournalClient
from perdure.agent.cluster.journal.journal_messages import MOST_BYTES, PROTOCOL, Body, read_message
from perdure.agent.cluster.journal.journal_server import serve_journal
from perdure.agent.cluster.journal.known_players import PlayerGone
from perdure.memory.errors import InputError, Unavailable
from perdure.memory.records import Lease
from perdure.memory.store import open_store

PLAYERS = 6


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    """A head whose journal is in this process."""
    with head_in(tmp_path) as head:
        queue(head, WALK, PLAYERS)
        with journal_here(head):
            yield head


def hello(client: JournalClient) -> str:
    said = {"protocol": PROTOCOL, "perdure": perdure.__version__, "model": "tiny", "hash": BASE_HASH, "label": "p"}
    return str(client.ask("hello", said).head["player"])


def asked(head: Head, method: str, path: str, body: bytes, **headers: str) -> int:
    """The status that a request is answered with."""
    with closing(http.client.HTTPConnection("127.0.0.1", head.port, timeout=30)) as connection:
        connection.request(method, path, body, headers)
        return connection.getresponse().status


def test_nobody_writes_without_the_token_and_its_file_is_for_its_owner_alone(head: Head) -> None:
    body = Body(head={}).packed()
    token = head.token
    for given in ("", f"Basic {token}", f"Bearer {token}x", f"Bearer {token[:-1]}", "Bearer ", f"Bearer {token[:-1]}\xe9"):
        assert asked(head, "POST", "/hello", body, Authorization=given) == 401, given
    assert asked(head, "POST", "/hello", body, Authorization=f"Bearer {token}") == 400
    assert (head.home / "run" / "cluster-token").stat().st_mode & 0o777 == 0o600
    with (
        closing(JournalClient(url=head.url, token="a-wrong-token-of-some-length", patience_s=1.0)) as client,
        pytest.raises(InputError, match="another token is needed"),
    ):
        hello(client)


def test_only_posts_of_known_length_are_read_and_not_more_than_is_sensible(head: Head) -> None:
    bearer = f"Bearer {head.token}"
    assert asked(head, "GET", "/hello", b"", Authorization=bearer) == 404
    assert asked(head, "POST", "/run", b"", Authorization=bearer) == 404
    assert asked(head, "POST", "/hello", b"{}", Authorization=bearer) == 400
    assert asked(head, "POST", "/hello", b"\xff\xff\xff\xff{}", Authorization=bearer) == 400
    with socket.create_connection(("127.0.0.1", head.port), timeout=30) as line:
        line.sendall(f"POST /turns HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Length: {MOST_BYTES + 1}\r\n\r\n".encode())
        assert b" 413 " in line.recv(4096)


def test_many_players_write_at_once_and_each_turn_is_there_once(head: Head) -> None:
    written: list[int] = []

    def plays() -> None:
        client = head.client()
        player = hello(client)
        [row] = client.ask("lease", {"player": player, "version": "v0", "holds": [], "most": 1}).head["tasks"]
        lease = Lease(subject=row[0], owner=player, attempt=row[4])
        episodes = client.ask("start", starting(player, [plan(lease, member) for member in (0, 1)])).head["episodes"]
        last = None
        for n in range(8):
            last = turn(n, last)
            body = saying(player, [(episode, n, last) for episode in episodes])
            client.ask("turns", body.head, body.rest)
        client.ask("finish", ending(player, episodes))
        client.ask("end-task", bringing(lease, "finish"))
        client.close()
        written.extend(episodes)

    threads = [threading.Thread(target=plays) for _ in range(PLAYERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    with open_store(head.home) as store:
        assert acknowledged_once(store) == []
        counts = dict(tuple(row) for row in store.rows("SELECT episode, count(*) FROM turn GROUP BY episode"))
    assert counts == dict.fromkeys(written, 8)
    assert len(written) == 2 * PLAYERS
    assert head.tasks("done") == PLAYERS


def test_another_program_on_the_port_is_told_from_a_journal(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        client = JournalClient(url=f"http://127.0.0.1:{other.server_port}", token="x" * 20, patience_s=5.0)
        with pytest.raises(InputError, match="no journal of Perdure: another program has the port"):
            hello(client)
        (tmp_path / "home").mkdir()
        with pytest.raises(Unavailable, match=r"is in use by another program: choose another with cluster.journal_port"):
            serve_journal(tmp_path / "home", ClusterSection(journal_port=other.server_port), lambda: True)
        client.close()
        other.shutdown()


@pytest.mark.parametrize("told", [0, 3, -1])
def test_an_answer_that_is_cut_short_is_asked_for_again(told: int) -> None:
    whole = Body(head={"written": 3}, rest=b"as it was").packed()
    heading = f"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {len(whole)}\r\n\r\n".encode()
    asked: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for bytes_told in (whole[:told], whole):
                line, _ = listener.accept()
                with line, line.makefile("rb") as lines:
                    headers = list(iter(lines.readline, b"\r\n"))
                    length = next(int(one.split(b":")[1]) for one in headers if one.lower().startswith(b"content-length"))
                    asked.append(bool(read_message(lines.read(length)).head["again"]))
                    line.sendall(heading + bytes_told)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with closing(JournalClient(url=f"http://127.0.0.1:{listener.getsockname()[1]}", token="a token", patience_s=30.0)) as client:
            found = client.ask("turns", {"player": "p"})
        thread.join(30)
    assert (found.head, found.rest) == ({"written": 3}, b"as it was")
    assert asked == [False, True]


def test_an_address_that_nobody_answers_at_ends_in_a_sentence_within_the_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port, answer_s in ((silent.getsockname()[1], 0.3), (1, 5.0)):
            client = JournalClient(url=f"http://127.0.0.1:{port}", token="x" * 20, patience_s=1.0, answer_s=answer_s)
            began = time.monotonic()
            with pytest.raises(PlayerGone, match=rf"the journal at http://127.0.0.1:{port} does not answer"):
                hello(client)
            assert time.monotonic() - began < 5.0
    with pytest.raises(InputError, match="is no address of a journal"):
        hello(JournalClient(url="journal.example", token="x" * 20, patience_s=1.0))
