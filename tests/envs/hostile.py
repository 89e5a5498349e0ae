"""An environment that attacks its process and all around it: the action names one of the functions below."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from tests.envs.faulty import Counting, Stepped

from perdure.envs.sandbox.confinement import MOST_IN_EPISODE


def own_socket() -> int:
    """The descriptor over which this process is asked."""
    return next(fd for fd in range(3, 256) if is_socket(fd))


def is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def write(line: bytes) -> None:
    os.write(own_socket(), line)


def asked() -> int:
    """The number of the question that is being answered."""
    frame = sys._getframe()
    while not {"n", "question"} <= frame.f_locals.keys():
        assert frame.f_back is not None
        frame = frame.f_back
    return int(frame.f_locals["n"])


def answer(**changes: Any) -> None:
    """Write an answer in the worker's place."""
    write(json.dumps({"n": asked(), **changes}).encode() + b"\n")


def outcome(**changes: Any) -> None:
    """The same, of a step, right but for what is changed."""
    good = {"observation": "", "reward": 0.0, "terminated": True, "truncated": False, "success": None, "invalid": None}
    answer(outcome={**good, "seat": 0, "rewards": [], **changes})


def flood(line: bytes) -> None:
    while True:
        write(line)


def ignore_alarms() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(600)


def fork_on() -> None:
    """The child goes on like its parent."""
    os.fork()


def thread_that_forks() -> None:
    def fork() -> None:
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join(0.3)


def detached(seconds: float = 600.0) -> int:
    """A process in a session of its own, whose parent has ended, with all descriptors."""
    if (pid := os.fork()) == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(seconds)
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    raise OSError("no files any more")


def kill_all() -> None:
    """Without a namespace for its processes this would kill all processes of the user, on the whole machine."""
    assert (os.getpid(), os.getppid()) in ((2, 1), (3, 1)), "this process is not in a namespace of its own"
    detached()  # so that there is another process
    os.kill(-1, signal.SIGKILL)


def fork_without_end() -> None:
    """All of them go on forking. Only if there is a limit."""
    assert (os.getpid(), os.getppid()) in ((2, 1), (3, 1)), "this process is not in a namespace of its own"
    kernel = tuple(int(part) for part in os.uname().release.split(".")[:2])
    limited = resource.getrlimit(resource.RLIMIT_NPROC)[0] == MOST_IN_EPISODE if os.getuid() else kernel >= (6, 14)
    assert limited, "there is no limit"  # root's is that of all episodes, and nothing here can read it
    while True:
        with suppress(OSError):
            os.fork()


ATTACKS: dict[str, Any] = {
    "no-object": lambda: write(b"[1]\n"),
    "no-json": lambda: write(b"{{{\n"),
    "no-utf8": lambda: write(b"\xff\xfe\xff\n"),
    "half-a-line": lambda: write(b'{"n": 2, "out'),
    "deep": lambda: write(b"[" * 100_000 + b"\n"),
    "long": lambda: flood(b"x" * 65536),
    "n-null": lambda: write(b'{"n": null}\n'),
    "n-list": lambda: write(b'{"n": []}\n'),
    "n-infinite": lambda: write(b'{"n": 1e999}\n'),
    "n-nan": lambda: write(b'{"n": NaN}\n'),
    "n-none": lambda: write(b"{}\n"),
    "n-ahead": lambda: write(b'{"n": 1000}\n'),
    "n-behind": lambda: write(b'{"n": 0}\n'),
    "flood": lambda: flood(b'{"n": 0}\n'),
    "no-outcome": lambda: answer(),
    "outcome-text": lambda: answer(outcome="x"),
    "outcome-list": lambda: answer(outcome=[1]),
    "outcome-more": lambda: outcome(more=1),
    "reward-text": lambda: outcome(reward="1"),
    "reward-nan": lambda: outcome(reward=float("nan")),
    "reward-huge": lambda: outcome(reward=10**400),
    "rewards-number": lambda: outcome(rewards=3),
    "rewards-text": lambda: outcome(rewards=["a"]),
    "seat-negative": lambda: outcome(seat=-1),
    "seat-text": lambda: outcome(seat="a"),
    "success-text": lambda: outcome(success="a"),
    "observation-list": lambda: outcome(observation=["a"]),
    "observation-long": lambda: outcome(observation="a" * 2_000_000),
    "invalid-list": lambda: outcome(invalid=["a"]),
    "terminated-text": lambda: outcome(terminated="a"),
    "fault-list": lambda: answer(fault=["a"]),
    "shut": lambda: socket.socket(fileno=os.dup(own_socket())).shutdown(socket.SHUT_RDWR),
    "no-alarm": ignore_alarms,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "real-time-signal": lambda: os.kill(os.getpid(), signal.SIGRTMIN + 5),
    "fork-on": fork_on,
    "thread-forks": thread_that_forks,
    "detach": detached,
    "no-standard-files": lambda: os.closerange(0, 3),
    "few-files": few_files,
    "prints": lambda: os.write(1, b"x" * 2**20),
    "kill-all": kill_all,
    "fork-without-end": fork_without_end,
    "kill-host": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "threads": lambda: [threading.Thread(target=time.sleep, args=(600,), daemon=True).start() for _ in range(50)],
    "interrupt": lambda: signal.raise_signal(signal.SIGINT),
    "alarm-later": lambda: signal.setitimer(signal.ITIMER_REAL, 0.3),
    "long-fault": lambda: (_ for _ in ()).throw(ValueError("x" * 10_000_000)),
    "surrogate-fault": lambda: (_ for _ in ()).throw(ValueError("\ud800")),
}


class Hostile(Counting):
    def step(self, action: str) -> Stepped:
        if action in ATTACKS:
            ATTACKS[action]()
        return super().step(action)
