"""The other side of `envs/sandbox/host.py`: `python -m perdure.envs.sandbox.worker DESCRIPTOR FOLDER JSON`, which imports one
environment and forks a worker for each episode that is played at once.

It confines itself (`confinement.py`) before anything of the environment is imported. A worker answers one question after the other; it is
forked after the import, so that it costs a few milliseconds and shares most of its memory with the others.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Set
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.envs.sandbox.confinement import Confined, as_ended, begin_episode, die_with, enter, keep_to_folder, limit, obstacle, stay
from perdure.envs.sandbox.host_messages import (
    LOAD_TIMEOUT_S,
    Forked,
    ForkRefused,
    LoadFailure,
    read_end,
    read_start,
    write_failure,
    write_fork_answer,
    write_status,
)
from perdure.envs.sandbox.sandbox_hints import with_hint
from perdure.envs.sandbox.wire import Wire, WireError, process_descriptor
from perdure.memory.json_value import JsonObject

if TYPE_CHECKING:
    from perdure.envs.environment import Environment

FOR_WORKERS = ("perdure.envs.check.rules", "perdure.envs.sandbox.worker_messages")
"""Modules that every worker needs: imported once, before the forks."""
STACK_S = 1.0
"""How long before the time of loading is over its stack is printed, for the other side to say where it hangs."""
REMEDY = "set unconfined = true in [sandbox] if you trust it with all that you may change, or run where user namespaces are allowed"


def main() -> None:
    descriptor, folder, start = int(sys.argv[1]), Path(sys.argv[2]), read_start(sys.argv[3])
    sys.path += [path for path in start.path if path not in sys.path]
    wire = Wire(socket.socket(fileno=descriptor))
    limit(start.memory_mib)
    reason = obstacle()
    if reason and not start.unconfined:
        wire.send(write_failure(LoadFailure(unknown=False, reason=f"{start.name} cannot be confined here: {reason}; {REMEDY}")))
        return
    confined = None if reason else enter(start.parent, start.network, folder)
    outlive = stay(start.parent) if confined is None else confined.outlive
    own = os.getpid()
    environment, description = _loaded(start.name)
    if os.getpid() != own:
        os._exit(0)  # a process that the imported code has forked
    wire.send(description)
    if environment is None:
        return
    os.chdir(folder)  # only now: an environment may read files that its options name
    outlive()  # from here on it notices by itself that the other side has closed, and removes its folder
    gc.collect()
    gc.freeze()  # a collection would write to every object, and unshare its memory
    host(wire, folder, environment, start.cpu_s, confined)


def host(wire: Wire, folder: Path, environment: Environment, cpu_s: int, confined: Confined | None) -> None:
    """Fork and end workers as asked, until the other side closes."""
    workers: dict[int, Path] = {}
    shared = _children()  # started by the imported code: they serve all episodes
    count = 0
    try:
        while True:
            order, descriptor = wire.receive_with_descriptor()
            if descriptor is not None:
                count += 1
                parent = os.getpid()
                own = folder / f"worker-{count}"
                try:
                    pid = os.fork()
                except OSError as error:  # too many processes: the others play on
                    os.close(descriptor)
                    wire.send(write_fork_answer(ForkRefused(reason=str(error))))
                    continue
                if pid == 0:
                    wire.close()
                    _work(socket.socket(fileno=descriptor), parent, own, environment, cpu_s, confined)
                os.close(descriptor)
                workers[pid] = own
                wire.send(write_fork_answer(Forked(pid=pid)), process := process_descriptor(pid))
                if process is not None:
                    os.close(process)
                continue
            end = read_end(order)
            status = 0
            if end.worker in workers:
                status = _end(end.worker, confined is not None, end.patience_s)
                shutil.rmtree(workers.pop(end.worker), ignore_errors=True)
                if confined is None:
                    _end_strays(workers.keys() | shared)
            wire.send(write_status(status))
    except (WireError, OSError):
        for pid in workers:
            _end(pid, confined is not None)
        if confined is None:
            _end_strays(set())
        shutil.rmtree(folder, ignore_errors=True)


def _loaded(name: str) -> tuple[Environment | None, JsonObject]:
    """The environment and its description for the other side; or None, and why."""
    from perdure.envs.registry import load_here
    from perdure.envs.sandbox.description import write_description
    from perdure.memory.errors import PerdureError, UnknownError

    faulthandler.dump_traceback_later(LOAD_TIMEOUT_S - STACK_S)
    try:
        environment = load_here(name)
        for module in FOR_WORKERS:
            import_module(module)
    except PerdureError as error:
        return None, write_failure(LoadFailure(unknown=isinstance(error, UnknownError), reason=with_hint(str(error))))
    finally:
        faulthandler.cancel_dump_traceback_later()
    return environment, write_description(environment)


def _work(socket_: socket.socket, parent: int, folder: Path, environment: Environment, cpu_s: int, confined: Confined | None) -> None:
    """Be a worker, until the other side closes. Does not return."""
    try:
        if confined is not None:
            begin_episode(parent, confined.ids)
        os.setsid()
        if sys.platform == "linux":
            die_with(os.getppid())
        folder.mkdir()
        if confined is not None:
            keep_to_folder(folder.parent)
        os.chdir(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
        output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for standard in (1, 2):
            os.dup2(output, standard)
        os.close(output)
        _scramble()
        _serve(Wire(socket_), environment, folder, cpu_s)
    except (WireError, OSError):
        os._exit(0)
    finally:
        os._exit(1)


def _serve(wire: Wire, environment: Environment, folder: Path, cpu_s: int) -> None:
    from perdure.envs.check.rules import check_rule
    from perdure.envs.check.sample_episodes import digest, longest_texts
    from perdure.envs.guarded import EnvironmentFault, GuardedEnv, describe_error
    from perdure.envs.sandbox.worker_messages import (
        CloseQuestion,
        DigestQuestion,
        LongestQuestion,
        OracleQuestion,
        Question,
        ResetQuestion,
        RuleQuestion,
        StepQuestion,
        read_question,
        write_action,
        write_digest,
        write_fault,
        write_first,
        write_outcome,
        write_texts,
    )

    env = GuardedEnv(environment)
    own = os.getpid()

    def answer(question: Question) -> JsonObject:
        match question:
            case StepQuestion(action=action):
                return write_outcome(env.step(action))
            case ResetQuestion(seed=seed):
                env.close()
                _start_clean(folder)
                _allow(cpu_s)
                return write_first(env.reset(seed), env.seat, env.instructions)
            case OracleQuestion():
                return write_action(env.oracle())
            case CloseQuestion():
                env.close()
                return {}
            case RuleQuestion(rule=rule, answers=answers):
                _start_clean(folder)  # an episode of the rule before may have left it
                _print_nowhere()
                return {"findings": [finding.as_json() for finding in check_rule(environment, rule, answers)]}
            case DigestQuestion():
                _print_nowhere()
                return write_digest(*digest(environment))
            case LongestQuestion():
                _print_nowhere()
                return write_texts(longest_texts(environment))

    while True:
        n, question = read_question(wire.receive())
        try:
            document = answer(question)
        except EnvironmentFault as fault:
            document = write_fault(with_hint(str(fault)))
        except BaseException as error:  # noqa: BLE001 - the episode ends with it
            document = write_fault(describe_error(error))
        if os.getpid() != own:
            os._exit(0)  # a process that the environment has forked
        wire.send({"n": n, **document})


def _start_clean(folder: Path) -> None:
    """Go back to the worker's own folder, and truncate what was printed: its size is limited."""
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    with suppress(OSError):
        os.ftruncate(1, 0)


def _print_nowhere() -> None:
    """Drop what is printed from now on: many episodes are played, and the size of a file is limited."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for standard in (1, 2):
        os.dup2(nowhere, standard)
    os.close(nowhere)


def _allow(cpu_s: int) -> None:
    """Let this process use `cpu_s` more of processor time; beyond that it is ended with SIGXCPU."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + cpu_s, hard))


def _scramble() -> None:
    """Seed the global random generators anew: otherwise all workers would draw the same numbers."""
    import numpy as np

    random.seed()
    np.random.seed()


def _end(pid: int, confined: bool, patience_s: float = 0.0) -> int:
    """End a worker with all that it started, after `patience_s` in which it may end by itself; returns its wait status."""
    _wait_for_end(pid, patience_s)
    if confined and (first := _children(pid)):  # with the first process of a namespace the kernel ends all others in it
        for number in first:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        _wait_for_end(pid, 5.0)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # if it has no group of its own yet
    with suppress(ChildProcessError):
        return as_ended(os.waitpid(pid, 0)[1])
    return 0


def _wait_for_end(pid: int, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    with suppress(ChildProcessError):
        while time.monotonic() < until_s and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.001)


def _end_strays(spared: Set[int]) -> None:
    """End processes that dead workers have left behind outside their groups: this process inherits them."""
    while strays := _children() - spared:
        for pid in strays:
            _end(pid, confined=False)


def _children(pid: int | None = None) -> set[int]:
    """Of this process, or of another."""
    number = pid or os.getpid()
    children = Path(f"/proc/{number}/task/{number}/children")
    with suppress(OSError):
        return {int(child) for child in children.read_text().split()}
    return set()


if __name__ == "__main__":
    main()
