"""A daemon with a cluster: a real Ray of three nodes, its own or another's, that dies and comes back. Its actor is a stand-in."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.agent.stand_ins import Place, plays
from tests.agent.web.servers import free_port
from tests.faults.cluster.other_cluster import OtherCluster

from perdure.agent.cluster.on_ray.own_ray import HEAD_HOST
from perdure.envs.rollout import nothing
from perdure.memory.processes import events
from perdure.memory.store import open_store

pytestmark = [pytest.mark.cluster, pytest.mark.processes, pytest.mark.timeout(900)]

WAIT_S = 240.0
NOBODY_HAS_IT = "asks for 1 GPU; 0 of 2 nodes have one"


def settings(address: str, **more: object) -> str:
    lines = {"address": f"'{address}'", "players": 1, "player_gpus": 1.0, "journal_port": free_port(), "start_timeout_s": 200, **more}
    return "[web]\nenabled = false\n[cluster]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())


def wait(place: Place, what: str, holds: Callable[[dict[str, Any]], object], meanwhile: Callable[[], None] = nothing) -> dict[str, Any]:
    """The status, once this holds of it."""
    until_s = time.monotonic() + WAIT_S
    found: dict[str, Any] = {}
    while time.monotonic() < until_s:
        meanwhile()
        with suppress(Exception):  # the store is being made
            found = place.status()
            if found["cluster"] and holds(found):
                return found
        time.sleep(0.5)
    logs = "\n".join(f"{file.name}: {file.read_text()[-1500:]}" for file in (place.home / "logs").glob("*.log"))
    pytest.fail(f"waited for {what}: {found.get('cluster')}\n{logs}")


def says_why(found: dict[str, Any]) -> bool:
    return [one["detail"] for one in found["cluster"]["pieces"]] == [NOBODY_HAS_IT]


def children(pid: int) -> dict[int, str]:
    """The command lines of the processes below this one, by number."""
    lines = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split(None, 2) for line in lines]
    found, parents = {}, {pid}
    while new := {int(row[0]): row[2] for row in rows if int(row[1]) in parents and int(row[0]) not in found}:
        found |= new
        parents = set(new)
    return found


def process(found: dict[str, Any], name: str) -> int:
    return next(int(one["pid"]) for one in found["processes"] if one["name"] == name)


@pytest.fixture
def other_ray(tmp_path: Path) -> Iterator[OtherCluster]:
    """A cluster that is not the daemon's, with the token of `home`. Not started."""
    with OtherCluster(tmp_path, f"{HEAD_HOST}:{free_port()}") as other:
        yield other


def test_a_local_cluster_says_why_players_wait_and_is_replaced_when_its_head_dies(place: Place) -> None:
    daemon = place.daemon(place.actor("play(store, pulse)"), settings("local"))
    place.wait("play", plays)  # it has not waited for the cluster
    found = wait(place, "the reason", says_why)
    assert found["cluster"]["state"] == "waiting"
    address = re.search(r"127\.0\.0\.2:\d+", found["cluster"]["detail"])
    assert address is not None
    assert f"player-1 waits: {NOBODY_HAS_IT}" in found["cluster"]["detail"]
    actor, cluster = process(found, "actor"), process(found, "cluster")
    head = next(pid for pid, line in children(cluster).items() if "gcs_server" in line)
    os.kill(head, signal.SIGKILL)
    found = wait(place, "another cluster", lambda found: process(found, "cluster") != cluster and says_why(found))
    assert address[0] not in found["cluster"]["detail"]
    assert (process(found, "actor"), daemon.poll()) == (actor, None)
    below = children(daemon.pid)
    assert sum("raylet" in line.split()[0] for line in below.values()) == 3
    daemon.terminate()
    assert daemon.wait(60) == 0
    until_s = time.monotonic() + 60
    while (left := [pid for pid in below if Path(f"/proc/{pid}").exists()]) and time.monotonic() < until_s:
        time.sleep(0.5)
    assert left == []


def test_another_s_cluster_is_waited_for_and_joined_again(place: Place, other_ray: OtherCluster) -> None:
    other_ray.start()
    daemon = place.daemon(place.actor("play(store, pulse)"), settings(other_ray.address))
    wait(place, "the reason", says_why, other_ray.mend)
    other_ray.close()
    gone = wait(place, "its silence", lambda found: "does not answer" in str(found["cluster"]["detail"]))
    assert gone["state"] == "playing"
    assert "start it there, or change cluster.address" in gone["cluster"]["detail"]
    assert gone["cluster"]["pieces"] == []
    back_s = other_ray.start()
    wait(place, "its return", says_why, other_ray.mend)
    print(f"rejoined with both nodes {time.monotonic() - back_s:.0f} s after its head listened again")
    with open_store(place.home) as store:
        told = [event.message for event in events(store) if event.subject == "cluster"]
    assert any("does not answer" in line for line in told), told
    daemon.terminate()
    assert daemon.wait(60) == 0


def asked(tmp_path: Path, address: str, start_timeout_s: int = 120) -> str:
    """What `perdure doctor` says of the cluster at an address."""
    (tmp_path / "perdure.toml").write_text(f"[cluster]\naddress = '{address}'\nstart_timeout_s = {start_timeout_s}\n")
    code = (
        "from pathlib import Path; from perdure.agent.config_file import load_config\n"
        "from perdure.agent.cluster.cluster_check import ask_cluster\n"
        f"print(ask_cluster(Path({str(tmp_path / 'home')!r}), load_config(Path({str(tmp_path / 'perdure.toml')!r}))))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=WAIT_S).stdout


def test_the_doctor_joins_a_cluster_and_tells_a_wrong_token(tmp_path: Path, other_ray: OtherCluster) -> None:
    (tmp_path / "home").mkdir()
    other_ray.start()
    address = other_ray.address
    found = asked(tmp_path, address)
    assert f"('{address}, " in found
    assert found.strip().endswith("True)")
    (tmp_path / "home" / "run" / "cluster-token").unlink()
    assert f"the cluster at {address} has another token: give all nodes the same one" in asked(tmp_path, address)


def test_the_doctor_tells_what_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    free = f"127.0.0.1:{free_port()}"
    assert f"the cluster at {free} does not answer (connection refused)" in asked(tmp_path, free)
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        address = f"127.0.0.1:{foreign.getsockname()[1]}"
        found = asked(tmp_path, address, start_timeout_s=20)
        assert address in found
        assert "does not answer" in found
