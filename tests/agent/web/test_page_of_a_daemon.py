"""The page is a child of the daemon: it dies, hangs or cannot listen, and nothing else is disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.stand_ins import Place, deaths, plays
from tests.agent.web.servers import Server, free_port, wait_for

from perdure.agent.supervision.children import LOG_LIMIT_BYTES
from perdure.memory.processes import events, processes
from perdure.memory.store import Store, open_store

pytestmark = pytest.mark.processes

WEB = "perdure.agent.web.program"
PLAYS = "play(store, pulse)"


def told(store: Store) -> list[str]:
    """The events of the page that are no deaths."""
    return [event.message for event in reversed(events(store)) if (event.kind, event.subject) == ("web", "web")]


def serves(store: Store) -> bool:
    return any(process.name == "web" and process.state == "serving" for process in processes(store))


def page_of(place: Place) -> int:
    """The process that serves."""
    with open_store(place.home) as store:
        (pid,) = [process.pid for process in processes(store) if process.name == "web"]
    return pid


def actor_of(place: Place) -> int:
    with open_store(place.home) as store:
        (pid,) = [process.pid for process in processes(store) if process.name == "actor"]
    return pid


def test_a_page_that_is_killed_comes_back_and_play_goes_on(place: Place) -> None:
    server = Server(home=place.home, port=free_port())
    daemon = place.daemon(place.actor(PLAYS), f"[web]\nport = {server.port}\n", page=WEB)
    place.wait("the page and play", lambda store: serves(store) and plays(store))
    assert place.status()["page"] == {"address": f"http://127.0.0.1:{server.port}", "obstacle": None}
    assert server.get("/api/v1/status").json()["state"] == "playing"
    actor, page = actor_of(place), page_of(place)
    os.kill(page, signal.SIGKILL)
    place.wait("another page", lambda store: serves(store) and page_of(place) != page)
    wait_for("its answer", server.answers)
    with open_store(place.home) as store:
        assert deaths(store) == ["killed: it was ended by SIGKILL; it starts again in 0.5 s"]
    assert (actor_of(place), daemon.poll()) == (actor, None)
    daemon.terminate()
    assert daemon.wait(timeout=20) == 0
    assert not server.answers()
    assert place.status()["page"] is None


def test_a_page_that_hangs_is_ended_and_started_again(place: Place) -> None:
    port = free_port()
    place.daemon(place.actor(PLAYS), f"[web]\nport = {port}\n[supervise]\nhang_s = 8\n", page=WEB)
    place.wait("the page and play", lambda store: serves(store) and plays(store))
    page = page_of(place)
    os.kill(page, signal.SIGSTOP)
    place.wait("another page", lambda store: serves(store) and page_of(place) != page)
    with open_store(place.home) as store:
        (death,) = deaths(store)
        assert plays(store)
    assert death.startswith("hung: it was ended by SIG")


def test_a_port_in_use_is_one_event_and_is_tried_again(place: Place) -> None:
    with subprocess.Popen([sys.executable, "-c", LISTENS], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        place.daemon(place.actor(PLAYS), f"[web]\nport = {port}\n", page=WEB)
        place.wait("play and the event", lambda store: plays(store) and told(store))
        why = f"port {port} of 127.0.0.1 is in use by another program: choose another with web.port"
        wait_for("the next attempts", lambda: (place.home / "logs" / "web.log").read_text().count(f"error: {why}") > 1)
        found = place.status()
        assert (found["page"], found["healthy"]) == ({"address": None, "obstacle": why}, True)
        other.kill()
    server = Server(home=place.home, port=port)
    wait_for("the page", server.answers)
    with open_store(place.home) as store:
        assert (told(store), deaths(store)) == ([f"{why}; it is tried again"], [])


LISTENS = """
import socket, time
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    time.sleep(60)
"""


def test_deaths_of_the_page_are_never_a_reason_to_give_up(place: Place) -> None:
    (place.path / "a_page.py").write_text("raise ValueError('no luck')")

    def died_thrice(store: Store) -> bool:
        return plays(store) and len(deaths(store)) > 2

    ended = place.supervise(place.actor(PLAYS), page="a_page", until=died_thrice, supervise={"tries": 1})
    assert (ended.code, ended.reason) == (0, "stopped by a signal")
    with open_store(place.home) as store:
        told = "crashed: it ended with exit code 1: ValueError: no luck; it starts again in "
        assert deaths(store)[:3] == [f"{told}0.5 s", f"{told}1 s", f"{told}2 s"]


def test_without_the_packages_there_is_play_and_one_event_with_the_remedy(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    ended = place.supervise(place.actor(PLAYS), page=WEB, until=lambda store: plays(store) and bool(told(store)))
    assert ended.code == 0
    remedy = "the page needs fastapi: `pip install 'perdure[web]'`, or set web.enabled = false"
    with open_store(place.home) as store:
        assert told(store) == [remedy]
        assert [process.detail for process in processes(store) if process.name == "web"] == [remedy]
    assert not (place.home / "logs" / "web.log").exists()


def test_a_page_that_is_not_wanted_is_not_there(place: Place) -> None:
    place.supervise(place.actor(PLAYS), page="no_such_module", until=plays, web={"enabled": False})
    with open_store(place.home) as store:
        assert (told(store), deaths(store)) == ([], [])
        assert "web" not in [process.name for process in processes(store)]


def test_what_the_page_logs_is_bounded(place: Place) -> None:
    (place.path / "a_page.py").write_text("import sys\nprint('x' * 2**20 * 5, flush=True)\nsys.exit(1)")
    logs = place.home / "logs"
    place.supervise(place.actor(PLAYS), page="a_page", until=lambda store: (logs / "web.log.1").exists())
    assert LOG_LIMIT_BYTES < sum(file.stat().st_size for file in logs.glob("web.*")) < 3 * LOG_LIMIT_BYTES


def test_another_address_than_loopback_needs_a_token_that_somebody_made(place: Place, tmp_path: Path) -> None:
    daemon = place.daemon(place.actor(PLAYS), "[web]\nhost = '0.0.0.0'\n", page=WEB)
    assert daemon.wait(timeout=30) != 0
    assert not (place.home / "perdure.db").exists()
    command = [sys.executable, "-m", "perdure", "run", "--home", str(place.home), "--config", "perdure.toml"]
    done = subprocess.run(command, cwd=place.path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "lets other machines ask, and there is no token yet: make one first" in done.stderr
    assert done.stderr.count("\n") == 1


def test_lines_of_a_run_say_where_the_page_is(place: Place) -> None:
    from perdure.agent.show.home_snapshot import HomeSnapshot, changes, observe
    from perdure.memory.processes import beat
    from perdure.memory.store import create_store

    with create_store(place.home) as store:
        beat(store, "web", 1, "serving", "http://127.0.0.1:8377")
        assert changes(HomeSnapshot(), observe(store)) == ["web: serving, http://127.0.0.1:8377"]
