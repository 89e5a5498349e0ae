"""Environments in processes of their own: real ones, that do real harm in them."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.envs import faulty, harmful

from perdure.envs.environment import Environment
from perdure.envs.guarded import EnvironmentFault, open_episode
from perdure.envs.registry import load, load_all
from perdure.envs.sandbox.host import Host
from perdure.envs.sandbox.sandbox_loading import start_sandboxed
from perdure.envs.sandbox.sandbox_settings import Sandbox
from perdure.envs.scripted import by_oracle, fixed, play_scripted
from perdure.memory.errors import InputError, UnknownError

pytestmark = pytest.mark.processes

PLAIN = Sandbox()


def name_of(kind: type[faulty.Counting], options: str = "") -> str:
    return f"py:{kind.__module__}:{kind.__name__}{options}"


def fault_of(environment: Environment) -> str:
    env = open_episode(environment)
    with pytest.raises(EnvironmentFault) as caught:  # noqa: PT012
        env.reset(1)
        env.step("x")
    env.close()
    return str(caught.value)


def processes(marker: str) -> list[int]:
    """Processes that run in, or were started for, a folder of this name."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (marker in os.readlink(folder / "cwd") or marker in (folder / "cmdline").read_text()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_for(condition: object, seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def has_namespace(host: Host) -> bool:
    """Whether the processes of its episodes have numbers of their own; else these can signal all that the user may."""
    return all(len(status(pid, "NSpid")) > len(status(os.getpid(), "NSpid")) for pid in host.pids())


def status(pid: int, name: str) -> list[str]:
    return next((line.split()[1:] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{name}:")), [])


def workers(host: Host) -> list[int]:
    """The processes that play: the second ones of a namespace, whose first ones are children of those that the host knows."""
    if not has_namespace(host):
        return host.pids()
    return [pid for outer in host.pids() for first in children(outer) for pid in children(first) if status(pid, "NSpid")[-1] in ("2", "3")]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def good() -> Iterator[tuple[Environment, Host]]:
    environment, host = start_sandboxed(name_of(faulty.Counting), Sandbox())
    yield environment, host
    host.close()


def test_it_plays_as_in_this_process(good: tuple[Environment, Host]) -> None:
    environment, _ = good
    here = load(name_of(faulty.Counting), Sandbox(trusted=("py:",)))
    assert here.open_remote is None
    for seed in range(5):
        assert play_scripted(environment, seed, by_oracle) == play_scripted(here, seed, by_oracle)
        assert play_scripted(environment, seed, fixed("no")) == play_scripted(here, seed, fixed("no"))
    assert (environment.name, environment.instructions, environment.turn_limit) == (here.name, here.instructions, here.turn_limit)
    with pytest.raises(InputError, match="trusted"):
        environment.make()


def test_several_are_loaded_at_once_and_in_their_order() -> None:
    names = [name_of(faulty.Counting, "?reward=0.5"), "perdure:add", name_of(faulty.Prints), "perdure:add"]
    found = load_all(names)
    assert list(found) == names[:3]
    for name in names:
        assert found[name].name == load(name).name
        assert (found[name].open_remote is None) == name.startswith("perdure:")
        assert play_scripted(found[name], 1, by_oracle).success


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found through /proc")
@pytest.mark.parametrize(("wrong", "error"), [(":None", UnknownError), (":ExitsWhenMade", InputError)])
def test_where_one_of_several_cannot_be_loaded_no_process_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, error: type[Exception]
) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    with pytest.raises(error):
        load_all([name_of(faulty.Counting), f"py:tests.envs.faulty{wrong}", "py:slow:X"])
    assert time.monotonic() - began < 30
    assert wait_for(lambda: processes(str(tmp_path)) == [os.getpid()])


def test_options_and_solved_examples_are_made_there() -> None:
    environment = load("py:tests.envs.faulty:Counting?reward=0.5&shots=2")
    assert environment.name == "py:tests.envs.faulty:Counting?reward=0.5&shots=2"
    assert len(environment.examples) == 6
    here = load("py:tests.envs.faulty:Counting?shots=2&reward=0.5", Sandbox(trusted=("py:tests.envs.faulty:Counting",)))
    assert (environment.name, environment.examples) == (here.name, here.examples)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("py:tests.envs.faulty:None", UnknownError, "no attribute"),
        ("py:tests.envs.faulty:Counting?rewards=1", InputError, "reward"),
        ("py:tests.envs.faulty:ExitsWhenMade", InputError, "cannot be made: SystemExit: 4"),
        ("textarena:GuesTheNumber-v0", UnknownError, "did you mean"),
    ],
)
def test_what_cannot_be_loaded_says_the_same_as_here(name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as there:
        load(name)
    with pytest.raises(error) as here:
        load(name, Sandbox(trusted=("py:", "textarena:")))
    assert str(there.value) == str(here.value)


def test_an_interpreter_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"cannot run /no/python.*\[sandbox\] python"):
        load(name_of(faulty.Counting), Sandbox(python={"py": "/no/python"}))


def test_a_crash_while_it_is_imported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashes.py").write_text("import os\nprint('a reason', flush=True)\nos._exit(9)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="its process died: a reason"):
        load("py:crashes:X")


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (harmful.Dies, "in step its process was ended by SIGSEGV"),
        (faulty.ExitsAtStep, "step raised SystemExit: 5"),
        (faulty.Hangs, "step took longer than 0.5 s"),
        (harmful.Gigabyte, "step returned 1000000000 characters; at most 1000000 are read"),
        (harmful.EatsMemory, "step raised MemoryError"),
        (faulty.Bytes, "step returned text of type bytes, not str"),
        (harmful.ClosesEverything, "in step its process ended with exit code 0"),
        (harmful.WritesMuch, "step raised OSError: [Errno 27] File too large"),
    ],
)
def test_whatever_it_does_is_its_own_fault_and_the_next_episode_goes_on(kind: type[faulty.Counting], fault: str) -> None:
    environment, host = start_sandboxed(name_of(kind, "?step_timeout_s=0.5" if kind is faulty.Hangs else ""), PLAIN)
    assert fault_of(environment).startswith(fault)
    assert fault_of(environment).startswith(fault)
    host.close()


def test_one_that_swallows_the_time_limit_is_killed() -> None:
    environment, host = start_sandboxed(name_of(harmful.HangsForGood, "?step_timeout_s=0.2"), PLAIN)
    assert fault_of(environment) == "step took longer than 0.2 s, and its process had to be killed"
    assert fault_of(environment) == "step took longer than 0.2 s, and its process had to be killed"
    host.close()


def test_processor_time_that_nobody_asked_for_ends_the_episode() -> None:
    environment, host = start_sandboxed(name_of(harmful.Burns), Sandbox(cpu_s=2))
    env = open_episode(environment)
    env.reset(1)
    assert wait_for(lambda: ") Z " in Path(f"/proc/{host.pids()[-1]}/stat").read_text(), 60.0)
    with pytest.raises(EnvironmentFault, match=r"more than 2 s of processor time in one episode \(sandbox.cpu_s\)"):
        env.step("x")
    host.close()


def test_what_it_prints_and_odd_characters_arrive_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    for kind, seen in ((faulty.Prints, ""), (faulty.Surrogates, "\ufffd"), (faulty.Escapes, "\x1b[31m")):
        environment, host = start_sandboxed(name_of(kind), PLAIN)
        assert seen in play_scripted(environment, 1, by_oracle).exchanges[0][0]
        host.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="strays are found through /proc")
def test_what_it_leaves_behind_is_ended_with_it() -> None:
    environment, host = start_sandboxed(name_of(harmful.Forks), PLAIN)
    folder = host.folder.name
    before = len(processes(folder))
    env = open_episode(environment)
    env.reset(1)
    env.step("x")
    assert len(processes(folder)) >= 5 + before
    os.kill(workers(host)[0], signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match="ended by SIGKILL"):
        env.step("x")
    assert wait_for(lambda: len(processes(folder)) == before)
    host.close()
    assert processes(folder) == []


WITHOUT_NAMESPACES = (
    "import platform, sys\nfrom tests.envs.sandbox.test_sandbox import *\n"
    "from perdure.envs.sandbox.system_calls import UNSHARE, filter_calls\n"
    "filter_calls((UNSHARE[platform.machine()],))\n"
    "try:\n    start_sandboxed(name_of(harmful.Forks), Sandbox())\nexcept InputError as error:\n    print(error)\n"
    "environment, host = start_sandboxed(name_of(harmful.Forks), Sandbox(unconfined=True))\n"
    "env = open_episode(environment)\nenv.reset(1)\nenv.step('x')\n"
    "print(has_namespace(host), len(processes(host.folder.name)))\n"
    "env.close()\nhost.close()\nprint(processes(host.folder.name))\n"
)


@pytest.mark.skipif(sys.platform != "linux", reason="there are no namespaces at all")
def test_where_the_system_gives_no_namespaces_it_plays_only_if_that_is_allowed() -> None:
    """As in many containers: `unshare` is refused, for this process and all that it starts."""
    command = [sys.executable, "-c", WITHOUT_NAMESPACES]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    refused, *rest = done.stdout.splitlines()
    assert "cannot be confined here: namespaces cannot be had: Operation not permitted; set unconfined = true in [sandbox]" in refused
    assert (rest, done.returncode) == (["False 7", "[]"], 0), done.stderr


def test_a_killed_worker_is_one_fault_and_a_killed_host_is_started_again(good: tuple[Environment, Host]) -> None:
    environment, host = good
    env, beside = open_episode(environment), open_episode(environment)
    env.reset(1)
    beside.reset(2)
    [killed, _] = workers(host)[-2:]
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(EnvironmentFault, match="its process was ended by SIGKILL"):
        env.step("x")
    assert not beside.step(beside.oracle()).ended
    left = workers(host)
    os.kill(host.pid, signal.SIGKILL)
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
    with pytest.raises(EnvironmentFault, match="died"):
        beside.step("x")
    assert env.reset(3).isdigit()
    env.close()
    beside.close()


def test_an_idle_worker_that_died_costs_no_episode(good: tuple[Environment, Host]) -> None:
    environment, host = good
    play_scripted(environment, 1, by_oracle)
    for pid in workers(host):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    assert play_scripted(environment, 1, by_oracle).success


def test_workers_are_used_again_and_forked_for_what_is_played_at_once(good: tuple[Environment, Host]) -> None:
    environment, host = good
    before = set(host.pids())
    envs = [open_episode(environment) for _ in range(8)]
    for seed, env in enumerate(envs):
        env.begin(seed)
    assert len({env.first() for env in envs}) == 8
    at_once = set(host.pids())
    assert len(at_once) == max(8, len(before))
    for env in envs:
        env.close()
    for seed in range(20):
        play_scripted(environment, seed, by_oracle)
    assert set(host.pids()) == at_once


@pytest.mark.skipif(sys.platform != "linux", reason="the network is taken away by a namespace")
def test_the_network_is_out_of_reach_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calls.py").write_text(
        "import socket\nfrom tests.envs.faulty import Counting\n\n\n"
        "class Calls(Counting):\n    def __init__(self, port: int = 0):\n        super().__init__()\n        self.port = port\n\n"
        "    def step(self, action):\n"
        "        with socket.socket() as listener, socket.socket() as caller:\n"
        "            listener.bind(('127.0.0.1', 0))\n            listener.listen()\n"
        "            caller.connect(('127.0.0.1', self.port or listener.getsockname()[1]))\n"
        "        return super().step(action)\n"
    )
    monkeypatch.chdir(tmp_path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0:
            assert "Connection refused" in fault_of(load(f"py:calls:Calls?port={port}")), "this machine's loopback is another one"
        for sandbox, asked in ((Sandbox(), 0), (Sandbox(network=True), port)):
            env = open_episode(load(f"py:calls:Calls?port={asked}", sandbox))
            env.reset(1)
            assert not env.step(env.oracle()).ended
            env.close()


def test_it_has_few_variables_and_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tells.py").write_text(
        "import os, tempfile\nfrom tests.envs.faulty import Counting\n\n\n"
        "class Tells(Counting):\n    def step(self, action):\n"
        "        open('left', 'w').close()\n"
        "        told = [os.getcwd(), tempfile.gettempdir(), str(os.environ.get('SECRET')), str(os.environ.get('SHARED'))]\n"
        "        return ' '.join(told), 0.0, False, False, {}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "s")
    monkeypatch.setenv("SHARED", "t")
    environment, host = start_sandboxed("py:tells:Tells", Sandbox(variables=("SHARED",)))
    env = open_episode(environment)
    env.reset(1)
    where, temporary, secret, shared = env.step("x").observation.split()
    assert (secret, shared) == ("None", "t")
    assert where == temporary
    assert (Path(where) / "left").exists()
    assert not (tmp_path / "left").exists()
    host.close()
    assert not host.folder.exists()


def test_letting_go_of_the_environment_ends_its_process() -> None:
    environment, host = start_sandboxed(name_of(faulty.Counting), Sandbox())
    pid, folder = host.pid, host.folder
    play_scripted(environment, 1, by_oracle)
    del environment, host
    gc.collect()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import time\nfrom perdure.envs.guarded import open_episode\nfrom perdure.envs.sandbox.sandbox_loading import start_sandboxed\n"
        "from perdure.envs.sandbox.sandbox_settings import Sandbox\n"
        f"environment, host = start_sandboxed({name_of(faulty.Counting)!r}, Sandbox())\nenv = open_episode(environment)\nenv.reset(1)\n"
        "print(host.pid, host.pids()[0], host.folder, flush=True)\ntime.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    host, worker, folder = process.stdout.readline().split()
    process.kill()
    process.wait()
    process.stdout.close()
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (host, worker)))
    assert wait_for(lambda: not Path(folder).exists())


def test_found_threads_of_every_fork_are_named_as_what_keeps_an_episode_from_being_confined() -> None:
    env = open_episode(load("py:tests.envs.threads_in_forks:Starts", Sandbox()))
    with pytest.raises(EnvironmentFault, match=r"in reset its process could not begin: .* starts threads in every fork"):
        env.reset(1)
    env.close()
