"""An episode changes nothing outside of its folder, by any way that is known. Each canary is a file of the test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.envs.escapes import WAYS
from tests.envs.sandbox.test_sandbox import status, workers

from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault, open_episode
from perdure.envs.registry import load
from perdure.envs.sandbox.confinement import obstacle
from perdure.envs.sandbox.host import Host
from perdure.envs.sandbox.sandbox_loading import start_sandboxed
from perdure.envs.sandbox.sandbox_settings import Sandbox
from perdure.envs.scripted import by_oracle, play_scripted
from perdure.memory.errors import InputError

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(bool(obstacle()), reason=f"this machine confines nothing: {obstacle()}"),
]

FILES = ("plain", "first-process", "parent", "own-root", "remove", "rename", "mode", "program", "clear-read-only", "remount",
         "namespaces-again", "from-import")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outside")


@pytest.fixture(scope="module")
def escaping(place: Path) -> Iterator[tuple[Environment, Host]]:
    os.environ["ESCAPES"] = str(place)
    environment, host = start_sandboxed("py:tests.envs.escapes:Escapes", Sandbox(variables=("ESCAPES",)))
    yield environment, host
    host.close()
    del os.environ["ESCAPES"]


def try_it(environment: Environment, action: str) -> str:
    """The fault that it ended with; empty if it succeeded."""
    env = open_episode(environment)
    env.reset(1)
    try:
        env.step(action)
    except EnvironmentFault as fault:
        return str(fault)
    finally:
        env.close()
    return ""


@pytest.mark.parametrize("way", FILES)
def test_no_file_is_changed(escaping: tuple[Environment, Host], place: Path, way: str) -> None:
    canary = place / "canary"
    canary.write_text("alive")
    before = canary.stat()
    assert try_it(escaping[0], f"{way} {canary}")
    assert try_it(escaping[0], f"{way} {place / 'new'}")
    after = canary.stat()
    assert (canary.read_text(), after.st_mode, after.st_mtime_ns) == ("alive", before.st_mode, before.st_mtime_ns)
    assert [path.name for path in place.iterdir()] == ["canary"]


@pytest.mark.parametrize(("way", "kind"), [("stream", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM), ("datagram-of-a-pair", 2)])
def test_no_socket_of_the_machine_is_reached(escaping: tuple[Environment, Host], place: Path, way: str, kind: int) -> None:
    path = place / "socket"
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(str(path))
        if kind == socket.SOCK_STREAM:
            server.listen()
        assert "Permission denied" in try_it(escaping[0], f"{way} {path}")
    path.unlink()


def test_no_pipe_of_the_machine_is_written(escaping: tuple[Environment, Host], place: Path) -> None:
    path = place / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        said = try_it(escaping[0], f"pipe {path}")
        if not said:
            pytest.skip("this kernel has no Landlock (5.13), which alone refuses that")
        assert "Permission denied" in said
    finally:
        os.close(reader)
        path.unlink()


@pytest.mark.parametrize("way", ["opened", "read"])
@pytest.mark.parametrize("device", ["/dev/loop0", "/dev/vda", "/dev/sda", "/dev/mem", "/dev/kmsg", "/dev/fuse"])
def test_no_device_can_be_opened(escaping: tuple[Environment, Host], way: str, device: str) -> None:
    assert "FileNotFoundError" in try_it(escaping[0], f"{way} {device}")


@pytest.mark.parametrize("file", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/power/state", "/proc/self/oom_score_adj"])
def test_no_setting_of_the_kernel_can_be_opened(escaping: tuple[Environment, Host], file: str) -> None:
    if Path(file).exists():
        assert "Error" in try_it(escaping[0], f"opened {file}")


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero", "/dev/shm/own"])
def test_what_every_program_needs_can_be_opened(escaping: tuple[Environment, Host], device: str) -> None:
    assert try_it(escaping[0], f"{'plain' if device.endswith('own') else 'opened'} {device}") == ""
    assert not Path("/dev/shm/own").exists()


def test_host_and_worker_have_no_capabilities_and_play(escaping: tuple[Environment, Host]) -> None:
    environment, host = escaping
    env = open_episode(environment)
    env.reset(1)
    pids = [*workers(host), *host.pids()]
    inside = [pid for pid in pids if status(pid, "CapEff") == ["0" * 16]]
    assert set(workers(host)) <= set(inside)
    assert all(status(pid, "CapBnd") == ["0" * 16] for pid in workers(host))
    assert all(status(pid, "Seccomp") == ["2"] for pid in pids)
    env.close()


IMPORTS = {
    "import": "Path({place!r}).write_text('x')\n",
    "settings": "os.open('/proc/sys/kernel/core_pattern', os.O_WRONLY)\n",
    "cleared": "from tests.envs.escapes import clear_read_only\nclear_read_only({place!r})\n",
    "again": "from tests.envs.escapes import namespaces_again\nnamespaces_again({place!r})\n",
    "first": "Path('/proc/1/root' + {place!r}).write_text('x')\n",
    "device": "os.open('/dev/loop0', os.O_RDONLY)\n",
}


@pytest.mark.parametrize("way", IMPORTS)
def test_what_is_imported_changes_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "imports.py").write_text(
        "import os\nfrom pathlib import Path\nfrom tests.envs.faulty import Counting\n" + IMPORTS[way].format(place=str(canary))
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be imported"):
        load("py:imports:Counting")
    assert not canary.exists()


@pytest.mark.skipif(
    subprocess.run(["unshare", "-U", "--map-user=1000", "--map-group=1000", "true"], capture_output=True, check=False).returncode != 0,
    reason="nobody can become another user here",
)
def test_an_ordinary_user_is_confined_too(place: Path) -> None:
    code = (
        "import os, sys\nfrom tests.envs.sandbox.test_escapes import start_sandboxed, Sandbox, try_it\n"
        "environment, host = start_sandboxed('py:tests.envs.escapes:Escapes', Sandbox())\n"
        "print(os.getuid(), bool(try_it(environment, 'first-process ' + sys.argv[1])), bool(try_it(environment, 'plain mine')))\n"
        "host.close()"
    )
    canary = place / "canary-of-a-user"
    command = ["unshare", "-U", "--map-user=1000", "--map-group=1000", sys.executable, "-c", code, str(canary)]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.stdout == "1000 True False\n", done.stderr
    assert not canary.exists()


def test_ways_are_all_tried() -> None:
    assert set(WAYS) == {*FILES, "stream", "datagram", "datagram-of-a-pair", "pipe", "opened", "read"}


def test_it_plays_on_after_all_that(escaping: tuple[Environment, Host]) -> None:
    assert try_it(escaping[0], "plain mine") == ""
    assert play_scripted(load("py:tests.envs.faulty:Counting"), 1, by_oracle).success
