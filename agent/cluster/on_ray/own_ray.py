"""A Ray cluster of our own on this machine, for `cluster.address = "local"`: a head without cores, and two nodes that share the machine.

It is made of `ray start --block`, each of which ends all that it started when it ends, and ends with us. One starts at a time: two at once
get no answer from the head more often. Its processes know each other by addresses that only this machine has (127.0.0.2 and on); which
ports listen elsewhere nevertheless is in docs/cluster.md. Left out: joining it (`ray_runtime.py`).
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from perdure.agent.cluster.local_placement import room_here
from perdure.agent.processes.child import signalled_if_parent_dies
from perdure.memory.errors import RuntimeFailure

HEAD_HOST = "127.0.0.2"
NODE_HOSTS = ("127.0.0.3", "127.0.0.4")
STORE_BYTES = 100 * 2**20
"""Of each node's object store. Orders and answers are small; Ray takes no less than 75 MiB."""
PORTS = (
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)
"""Chosen by us: a node whose ports Ray chooses gives up if its agent has not written them down within 30 s, as on a busy machine."""
END_S = 3.0
MEND_S = 10.0
"""Between two attempts to start a node."""
START_S = 60.0
"""For so long others wait for one that is starting. Ray itself gives up after 30 s."""
BEGUN = b"Ray runtime started"
"""What a head or a node writes once it is there, and the head knows it."""
TAIL_LINES = 5
HEARTBEAT = {"RAY_health_check_period_ms": "1000", "RAY_health_check_initial_delay_ms": "3000"}
"""A node of this machine that does not answer is given up within some 10 s; Ray alone takes 20."""


class OwnRay:
    """The processes of our cluster. `close` ends them."""

    def __init__(self, home: Path, environment: Mapping[str, str], port: int = 0) -> None:
        """Start the head, at this port or a free one. It answers some seconds later, at `address`.

        Raises `RuntimeFailure` if its folder cannot be made.
        """
        self.address = f"{HEAD_HOST}:{port or _free_port(HEAD_HOST)}"
        self._environment = {**os.environ, **environment, **HEARTBEAT}
        self._folder = _folder(home)
        self._log = home / "logs" / "ray.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        """By host."""
        self._tried_s: dict[str, float] = {}
        """When each host was last started, on the monotonic clock."""
        self._newest = HEAD_HOST
        self._newest_at = 0
        """Where in the log its words begin."""
        self._start(
            HEAD_HOST,
            "--head",
            f"--port={self.address.rpartition(':')[2]}",
            f"--temp-dir={self._folder}",
            "--num-cpus=0",
            "--num-gpus=0",
            "--include-dashboard=false",
            "--no-monitor",
        )

    def mend(self) -> None:
        """Start a node that is not there, if none is starting: at first, when it was killed, and when Ray gave it up. Call it often.

        Each node has half of the cores, the GPUs and the memory of this machine.
        """
        if self.dead() is not None or self._one_is_starting():
            return
        tried_s = {host: self._tried_s.get(host, -math.inf) for host in NODE_HOSTS if not self._runs(host)}
        if tried_s and time.monotonic() - min(tried_s.values()) > MEND_S:
            self._add_node(min(tried_s, key=tried_s.__getitem__))

    def dead(self) -> str | None:
        """That its head has ended, and its last words; None while it runs."""
        head = self._processes[HEAD_HOST]
        if head.poll() is None:
            return None
        return f"the head of the local cluster ended with code {head.returncode}: {self._last_words()}"

    def close(self) -> None:
        """End all processes, and delete their folder."""
        for number, wait_s in ((signal.SIGTERM, END_S), (signal.SIGKILL, END_S)):
            for process in self._processes.values():
                if process.poll() is None:
                    process.send_signal(number)
            until_s = time.monotonic() + wait_s
            for process in self._processes.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until_s - time.monotonic()))
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, host: str, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
        common = (
            "--block",
            "--disable-usage-stats",
            "--include-log-monitor=false",
            "--min-worker-port=0",  # any that is free: two nodes of one machine would choose the same
            "--max-worker-port=0",
            f"--object-store-memory={STORE_BYTES}",
            f"--node-ip-address={host}",
            *(f"--{port}={_free_port(host)}" for port in PORTS),
        )
        self._newest, self._tried_s[host] = host, time.monotonic()
        with self._log.open("ab") as log:
            self._newest_at = log.tell()
            self._processes[host] = subprocess.Popen(
                [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", *arguments, *common],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self._environment, **(variables or {})},
                preexec_fn=_ended_with_us,
            )

    def _add_node(self, host: str) -> None:
        here, n = room_here(), NODE_HOSTS.index(host)
        gpus = range(int(here.gpus))
        own_gpus = gpus[n :: len(NODE_HOSTS)]
        self._start(
            host,
            f"--address={self.address}",
            f"--num-cpus={max(1, int(here.cpus) // len(NODE_HOSTS))}",
            f"--num-gpus={len(own_gpus)}",
            f"--memory={int(here.memory_gib * 2**30 * 0.8 / len(NODE_HOSTS))}",
            variables={"CUDA_VISIBLE_DEVICES": ",".join(map(str, own_gpus))} if gpus else {},
        )

    def _runs(self, host: str) -> bool:
        return host in self._processes and self._processes[host].poll() is None

    def _one_is_starting(self) -> bool:
        if not self._runs(self._newest) or time.monotonic() - self._tried_s[self._newest] > START_S:
            return False
        with self._log.open("rb") as log:
            log.seek(self._newest_at)
            return BEGUN not in log.read()

    def _last_words(self) -> str:
        lines: Sequence[str] = ()
        with suppress(OSError):
            lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return " ".join(lines[-TAIL_LINES:])[-300:]


def _ended_with_us() -> None:
    """SIGKILL, as `ray start` leaves SIGTERM alone while it starts. What it started ends with it: it has asked the kernel for that."""
    signalled_if_parent_dies(signal.SIGKILL)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])


def _folder(home: Path) -> Path:
    """A short name, as sockets in it may have 107 characters; the same for a home each time, so that a crash leaves one at most."""
    name = sha256(str(home.absolute()).encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"perdure-ray-{os.getuid()}-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise RuntimeFailure(f"cannot make the folder {folder} for Ray: {error.strerror}; delete it, or set TMPDIR") from error
    return folder
