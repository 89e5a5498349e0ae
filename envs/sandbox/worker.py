"""The other side of `envs/sandbox/host.py`: `python -m perdure.envs.sandbox.worker DESCRIPTOR FOLDER JSON`, which imports one
environment and forks for each episode that is played at once.

It confines itself (`confinement.py`) before anything of the environment is imported. A worker answers one question after the other; it is
forked after the import, so that it costs a few milliseconds and shares most of its memory with the others.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.envs.sandbox.confinement import as_ended, die_with, enter, forked, limit, write_only_to
from perdure.envs.sandbox.wire import Wire, watched

if TYPE_CHECKING:
    from perdure.envs.environment import Environment


def main() -> None:
    descriptor, folder, told = int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    sys.path += [part for part in told["path"] if part not in sys.path]
    wire = Wire(socket.socket(fileno=descriptor))
    limit(told["memory_mib"])
    namespace, outlive = enter(told["parent"], told["network"])
    own = os.getpid()
    environment, description = _loaded(told["name"])
    if os.getpid() != own:
        os._exit(0)  # forked by what was imported, and let go on
    wire.send(description)
    if environment is None:
        return
    os.chdir(folder)  # only now: an environment may read files that its options name
    outlive()  # from here on it sees for itself that nobody asks, and puts its folder away
    gc.collect()
    gc.freeze()  # a collection would write to every object, and unshare its memory
    host(wire, folder, environment, told["cpu_s"], namespace)


def host(wire: Wire, folder: Path, environment: Environment, cpu_s: int, namespace: int | None) -> None:
    """Fork and end workers as asked, until nobody asks any more."""
    workers: dict[int, Path] = {}
    shared = _children()  # started by what was imported: they are there for all episodes
    count = 0
    try:
        while True:
            question, descriptor = wire.receive_with_descriptor()
            if descriptor is not None:
                count += 1
                own = folder / f"worker-{count}"
                try:
                    pid = forked(namespace)
                except OSError as error:  # too many processes: those that are there play on
                    os.close(descriptor)
                    wire.send({"refused": str(error)})
                    continue
                if pid == 0:
                    wire.close()
                    _work(socket.socket(fileno=descriptor), own, environment, cpu_s, namespace)
                os.close(descriptor)
                workers[pid] = own
                wire.send({"pid": pid}, process := watched(pid))
                if process is not None:
                    os.close(process)
            elif question["end"] in workers:
                status = _ended(question["end"], question["patience_s"])
                shutil.rmtree(workers.pop(question["end"]), ignore_errors=True)
                if namespace is None:
                    _end_strays(workers.keys() | shared)
                wire.send({"status": status})
            else:
                wire.send({"status": 0})
    except (EOFError, OSError):
        for pid in workers:
            _ended(pid)
        if namespace is None:
            _end_strays(set())
        shutil.rmtree(folder, ignore_errors=True)


def _loaded(name: str) -> tuple[Environment | None, dict[str, Any]]:
    """The environment and what the other side is told of it; or no environment, and why."""
    from perdure.envs.registry import load_here
    from perdure.envs.sandbox.host import as_told
    from perdure.memory.errors import PerdureError, UnknownError

    try:
        environment = load_here(name)
    except UnknownError as error:
        return None, {"unknown": str(error)}
    except PerdureError as error:
        return None, {"wrong": str(error)}
    return environment, as_told(environment)


def _work(socket_: socket.socket, folder: Path, environment: Environment, cpu_s: int, namespace: int | None) -> None:
    """Be a worker, until nobody asks any more. Does not return."""
    try:
        os.setsid()
        if sys.platform == "linux":
            die_with(os.getppid())
        folder.mkdir()
        write_only_to(folder.parent, namespace)
        if namespace is not None:
            os.close(namespace)
        os.chdir(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(output, standard)
        os.close(output)
        _scramble()
        _serve(Wire(socket_), environment, folder, cpu_s)
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)


def _serve(wire: Wire, environment: Environment, folder: Path, cpu_s: int) -> None:
    from perdure.envs.check import rules
    from perdure.envs.guarded import EnvironmentFault, GuardedEnv, described

    env = GuardedEnv(environment)
    own = os.getpid()

    def answer(question: Mapping[str, Any]) -> dict[str, Any]:
        if "step" in question:
            return {"outcome": asdict(env.step(question["step"]))}
        if "oracle" in question:
            return {"action": env.oracle()}
        if "rule" in question:
            return {"findings": [finding.as_json() for finding in rules.judge(environment, question["rule"])]}
        if "digest" in question:
            return {"digest": rules.digest(environment)}
        if "longest" in question:
            return {"longest": rules.longest(environment)}
        env.close()
        if "reset" in question:
            _begin_anew(folder)
            _allow(cpu_s)
            return {"observation": env.reset(question["reset"]), "seat": env.seat}
        return {}

    while True:
        question = wire.receive()
        try:
            found = answer(question)
        except EnvironmentFault as fault:
            found = {"fault": str(fault)}
        except Exception as error:  # noqa: BLE001 - the episode ends with it
            found = {"fault": described(error)}
        if os.getpid() != own:
            os._exit(0)  # forked by the environment, and let go on
        wire.send({"n": question["n"], **found})


def _begin_anew(folder: Path) -> None:
    """Begin in the own folder again, wherever the last episode went, and with nothing printed: that has a limit for each file."""
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    with suppress(OSError):
        os.ftruncate(1, 0)


def _allow(cpu_s: int) -> None:
    """Let this process use so much more processor time; past it, it is ended with SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + cpu_s, hard))


def _scramble() -> None:
    """Give the global random generators a state of their own: else all workers would have that of their fork, and go on alike."""
    import numpy as np

    random.seed()
    np.random.seed()


def _ended(pid: int, patience_s: float = 0.0) -> int:
    """End a worker with its process group; gives its wait status, which is of its own end where it came to that before."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.005)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # where it has not come to have a group of its own
    with suppress(ChildProcessError):
        return as_ended(os.waitpid(pid, 0)[1])
    return 0


def _end_strays(spared: Set[int]) -> None:
    """End what dead workers have left behind outside their groups: the kernel gives it to this process."""
    while strays := _children() - spared:
        for pid in strays:
            _ended(pid)


def _children() -> set[int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(pid) for pid in children.read_text().split()} if children.exists() else set()


if __name__ == "__main__":
    main()
