"""What an environment does to the process that it is in, and to the socket over which that is asked, ends its own episode at most."""

from __future__ import annotations

import fcntl
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tests.envs import faulty
from tests.envs.hostile import ATTACKS
from tests.envs.sandbox.test_sandbox import has_namespace, processes, wait_for, workers

from perdure.envs.environment import Environment
from perdure.envs.guarded import MOST_WORDS, EnvironmentFault, GuardedEnv, open_episode
from perdure.envs.registry import load
from perdure.envs.sandbox.host import GRACE_S, Host
from perdure.envs.sandbox.sandbox_loading import start_sandboxed
from perdure.envs.sandbox.sandbox_settings import Sandbox
from perdure.envs.sandbox.wire import Wire, WireClosed
from perdure.envs.scripted import by_oracle, play_scripted
from perdure.memory.errors import InputError

pytestmark = pytest.mark.processes

ENDS_ALL = ("kill-host", "kill-all", "fork-without-end")


@pytest.fixture(scope="module")
def hostile() -> Iterator[tuple[Environment, Host]]:
    environment, host = start_sandboxed("py:tests.envs.hostile:Hostile?step_timeout_s=0.3", Sandbox())
    yield environment, host
    host.close()


@pytest.mark.parametrize(
    "attack",
    [name for name in ATTACKS if name not in ENDS_ALL],
)
def test_no_attack_reaches_another_episode(hostile: tuple[Environment, Host], attack: str) -> None:
    environment, host = hostile
    env, beside = open_episode(environment), open_episode(environment)
    beside.reset(2)
    before = host.pid
    message = ""
    try:
        env.reset(1)
        outcome = env.step(attack)
        assert (type(outcome.reward), type(outcome.seat), type(outcome.terminated)) == (float, int, bool)
        assert math.isfinite(outcome.reward)
    except EnvironmentFault as fault:
        message = str(fault)
    assert len(message) < MOST_WORDS + 10
    env.close()
    assert not beside.step(beside.oracle()).ended
    beside.close()
    for seed in range(2):
        assert play_scripted(environment, seed, by_oracle).success
    assert host.pid == before
    assert len(host.pids()) <= 3


def test_one_that_kills_all_or_forks_without_end_reaches_nobody_else(hostile: tuple[Environment, Host]) -> None:
    """Tried only if there are namespaces and limits: without, it would reach all processes of the user."""
    environment, host = hostile
    env, beside = open_episode(environment), open_episode(environment)
    beside.reset(2)
    env.reset(1)
    if not has_namespace(host):
        pytest.skip("this machine gives no namespaces for processes: docs/environments.md says what that means")
    assert len(workers(host)) == len(host.pids())
    env.step("kill-all")  # all but itself and the first process
    env.close()
    env.reset(1)
    with pytest.raises(EnvironmentFault, match=r"step took longer than 0\.3 s|there is no limit"):
        env.step("fork-without-end")
    env.close()
    assert not beside.step(beside.oracle()).ended
    assert wait_for(lambda: len(processes(str(host.folder))) < 20, seconds=60)  # the kernel takes its time for some hundred
    assert play_scripted(environment, 1, by_oracle).success
    beside.close()


def test_one_that_kills_its_host_leaves_nothing_and_a_new_one_plays_on(hostile: tuple[Environment, Host]) -> None:
    environment, host = hostile
    env = open_episode(environment)
    env.reset(1)
    env.step("detach")
    folder = host.folder
    other = open_episode(environment)
    other.reset(2)
    left = host.pids()
    if has_namespace(host):  # it cannot even name it
        before = host.pid
        other.step("kill-host")
        assert host.pid == before
        os.kill(before, signal.SIGKILL)
    with pytest.raises(EnvironmentFault):  # noqa: PT012
        other.step("kill-host")
        other.step("x")
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))  # the kernel ends them with their host, soon
    assert play_scripted(environment, 1, by_oracle).success
    assert host.folder != folder
    assert not folder.exists()
    assert processes(folder.name) == []
    for one in (env, other):
        one.close()


def test_questions_out_of_order_are_faults(hostile: tuple[Environment, Host]) -> None:
    environment, _ = hostile
    env = open_episode(environment)
    with pytest.raises(EnvironmentFault, match="before reset"):
        env.first()
    env.begin(1)
    env.begin(2)
    assert env.first() == opened_first(environment, 2)
    with pytest.raises(EnvironmentFault):
        env.first()
    env.reset(1)
    env.send("x")
    env.close()
    env.close()
    with pytest.raises(EnvironmentFault, match="before reset"):
        env.receive()
    assert env.reset(2) == opened_first(environment, 2)
    env.close()


def opened_first(environment: Environment, seed: int) -> str:
    env = open_episode(environment)
    first = env.reset(seed)
    env.close()
    return first


def test_a_fault_takes_its_process_along(hostile: tuple[Environment, Host]) -> None:
    """Its limit on open files would be the next episode's too."""
    environment, host = hostile
    play_scripted(environment, 1, by_oracle)
    used = host.pids()
    for _ in used:
        env = open_episode(environment)
        with pytest.raises(EnvironmentFault, match="no files any more"):
            env.step("few-files" if env.reset(1) else "")
        env.close()
    assert play_scripted(environment, 1, by_oracle).success
    assert not set(host.pids()) & set(used)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("os.write(fd, b'{\"name\": 3}\\n')", "unreadable description of the environment"),
        ("os.write(fd, b'{\"wrong\": [3]}\\n')", r"\[3\]"),
        ("os.write(fd, b'[]\\n')", "cannot be loaded"),
        ("os.write(fd, b'[' * 100000 + b'\\n')", "cannot be loaded"),
        ("os.close(fd)", "its process died"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "its process died"),
        ("os.fork() or (os.setsid(), time.sleep(600)); os._exit(3)", "its process died"),
    ],
)
def test_what_is_written_or_done_at_import_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str) -> None:
    (tmp_path / "meddles.py").write_text(
        f"import os, signal, sys, time\nfd = int(sys.argv[1])\n{line}\nfrom tests.envs.faulty import Counting\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        load("py:meddles:Counting")
    assert wait_for(lambda: set(processes(str(tmp_path))) == {os.getpid()})


def test_what_is_started_at_import_serves_all_episodes_and_ends_with_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "serves.py").write_text(
        "import os, subprocess\nfrom tests.envs.hostile import Hostile\nserver = subprocess.Popen(['sleep', '600.25'])\n"
        "os.fork()  # and the child goes on\n\n\n"
        "class Serves(Hostile):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    environment, host = start_sandboxed("py:serves:Serves", Sandbox())
    [server] = processes("600.25")
    for _ in range(3):
        env = open_episode(environment)
        env.reset(1)
        with pytest.raises(EnvironmentFault, match="ended by signal"):
            env.step("real-time-signal")
        env.close()
        assert processes("600.25") == [server]
    host.close()
    assert wait_for(lambda: not Path(f"/proc/{server}").exists())
    assert not host.folder.exists()


def test_what_one_prints_leaves_room_for_the_others(hostile: tuple[Environment, Host]) -> None:
    environment, host = hostile
    env, beside = open_episode(environment), open_episode(environment)
    env.reset(1)
    beside.reset(1)
    sizes = sum(path.stat().st_size for path in host.folder.rglob("output"))
    env.step("prints")
    assert sum(path.stat().st_size for path in host.folder.rglob("output")) == sizes + 2**20
    assert (host.folder / "output").stat().st_size == 0
    env.reset(2)
    assert sum(path.stat().st_size for path in host.folder.rglob("output")) < 2**20
    env.close()
    beside.close()


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0,
    reason="mounts are not ours to change here",
)
def test_an_episode_writes_to_its_own_folder_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "writes.py").write_text(
        "import multiprocessing\nfrom pathlib import Path\nfrom tests.envs.faulty import Counting\n\n\n"
        "class Writes(Counting):\n    def step(self, action):\n        Path('mine').write_text('x')\n"
        "        Path.home().joinpath('mine').write_text('x')\n"
        "        multiprocessing.Lock()\n        Path(action).write_text('x')\n        return super().step(action)\n"
    )
    monkeypatch.chdir(tmp_path)
    environment, host = start_sandboxed("py:writes:Writes", Sandbox())
    env = open_episode(environment)
    env.reset(1)
    with pytest.raises(EnvironmentFault, match="Read-only file system"):
        env.step(str(tmp_path / "others"))
    assert [path.name for path in host.folder.rglob("mine")] == ["mine", "mine"]
    env.close()
    host.close()
    assert not (tmp_path / "others").exists()
    assert not host.folder.exists()


def test_an_interrupt_while_it_is_imported_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text("import time\nfrom pathlib import Path\n(Path.home() / 'here').touch()\ntime.sleep(600)\n")
    code = (
        "import signal\nfrom perdure.envs.registry import load\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\nload('py:hangs:X')"
    )
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL, env=variables)
    assert wait_for(lambda: any(tmp_path.glob("perdure-env-*/here")))
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait()
    assert time.monotonic() - begun < 30
    assert processes("py:hangs:X") == []


def test_one_that_does_not_read_is_not_waited_for() -> None:
    environment, host = start_sandboxed("py:tests.envs.hostile:Hostile?step_timeout_s=0.3", Sandbox())
    env = open_episode(environment)
    env.reset(1)
    [pid] = workers(host)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EnvironmentFault):
        env.step("x" * 10**7)
    assert play_scripted(environment, 1, by_oracle).success
    host.close()


def test_many_descriptors_are_no_hindrance() -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1100:
        pytest.skip("this process may not have a descriptor past 1024")
    ours, theirs = socket.socketpair()
    high = socket.socket(fileno=fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, 1030))
    wire, other = Wire(high), Wire(theirs)
    other.send({"n": 1})
    assert wire.receive(1.0) == {"n": 1}
    for one in (ours, high, theirs):
        one.close()
    with pytest.raises(WireClosed):
        wire.receive(1.0)


@pytest.mark.parametrize(
    ("reward", "terminated", "says"),
    [(10**400, True, "OverflowError"), (1.0, np.array([True, False]), "ambiguous")],
)
def test_numbers_that_cannot_be_read_are_faults_in_this_process_too(reward: object, terminated: object, says: str) -> None:
    class Odd(faulty.Counting):
        def step(self, action: str) -> faulty.Stepped:
            return "", reward, terminated, False, {}  # type: ignore[return-value]

    env = GuardedEnv(faulty.environment(Odd))
    env.reset(1)
    with pytest.raises(EnvironmentFault, match=says):
        env.step("x")


def test_an_alarm_just_before_the_end_of_a_call_leaves_none_behind() -> None:
    class Close(faulty.Counting):
        def step(self, action: str) -> faulty.Stepped:
            signal.setitimer(signal.ITIMER_REAL, 2e-6, 1.0)  # as if time were up while the call ends
            return "", 0.0, True, False, {}

    for _ in range(50):
        env = GuardedEnv(faulty.environment(Close))
        env.reset(1)
        with suppress(EnvironmentFault):
            env.step("x")
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_members_that_hang_together_cost_one_time_limit() -> None:
    """They swallow the alarm, so that each has to be killed."""
    environment, host = start_sandboxed("py:tests.envs.harmful:HangsForGood?step_timeout_s=0.2", Sandbox())
    episodes = [open_episode(environment) for _ in range(6)]
    for env in episodes:
        env.reset(1)
    for env in episodes:
        env.send("x")
    begun = time.monotonic()
    for env in episodes:
        with pytest.raises(EnvironmentFault, match="had to be killed"):
            env.receive()
    assert time.monotonic() - begun < 4 * (0.2 + GRACE_S), "six limits are 13 s"
    host.close()


def test_a_description_of_another_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    description = (
        "json.dumps({'name': 'perdure:copy-word?shots=3', 'instructions': '', 'template': '{observation}', 'examples': [], "
        "'threshold': 0.0, 'reward_low': 0.0, 'reward_high': 1.0, 'turn_limit': 1, 'max_tokens': 8, 'step_timeout_s': 1.0, "
        "'opponent': '', 'code': ''})"
    )
    (tmp_path / "forges.py").write_text(f"import json, os, sys\nos.write(int(sys.argv[1]), ({description} + chr(10)).encode())\nF = 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="described another environment, 'perdure:copy-word"):
        load("py:forges:F")
