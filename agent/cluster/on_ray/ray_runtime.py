"""Joining a Ray cluster: one that `ray start` made, here or elsewhere, or one of our own on this machine. Nothing waits without a limit.

Ray is told through the environment to ask for a token and to send no statistics (`ray_environment.py`). A process joins one cluster in its
life; when it has lost it, it ends, and its supervisor starts another. Left out: what is placed there (`ray_placement.py`).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from perdure.agent.cluster.cluster_packages import require_cluster
from perdure.agent.cluster.cluster_settings import HOST_PORT, ClusterSection
from perdure.agent.cluster.on_ray.own_ray import OwnRay
from perdure.agent.cluster.on_ray.ray_environment import ray_environment
from perdure.agent.cluster.on_ray.ray_errors import why_not_joined
from perdure.agent.cluster.on_ray.ray_nodes import ASK_S, limited, rooms
from perdure.agent.cluster.room import NodeRoom
from perdure.memory.errors import RuntimeFailure, Unavailable

PROBE_S = 2.0
"""How long a connection to the head may take."""
LOOK_S = 0.25
ASK_EVERY_S = 5.0
SILENT_S = 20.0
"""A head that has not answered for so long is lost."""
SHUTDOWN_S = 8.0


@dataclass(slots=True, kw_only=True)
class RayCluster:
    """The cluster that this process has joined."""

    address: str
    own: OwnRay | None
    """Its processes, if it is ours."""
    nodes: list[NodeRoom]
    """Those that take pieces, when they were last asked for."""
    _heard_s: float = field(default_factory=time.monotonic)
    _asked_s: float = 0.0

    def lost(self) -> str | None:
        """Why the cluster is lost, for good; None while it answers. Asks it every few seconds, with a limit."""
        dead = self.own.dead() if self.own is not None else None
        if dead is not None:
            return dead
        if self.own is not None:
            self.own.mend()  # its nodes too are first started here
        now_s = time.monotonic()
        if now_s - self._asked_s < ASK_EVERY_S:
            return None
        self._asked_s = now_s
        why = silence(self.address)
        if why is None:
            try:
                self.nodes = _nodes(self.address, self.own)
                self._heard_s = time.monotonic()
            except Unavailable as error:
                why = str(error)
        if why is not None and (self.own is not None or time.monotonic() - self._heard_s > SILENT_S):
            return why
        return None


@contextmanager
def joined_ray(home: Path, cluster: ClusterSection, stop: Callable[[], bool] = lambda: False) -> Iterator[RayCluster]:
    """Join the cluster of the settings, or start one of our own and end it afterwards.

    Raises `InputError` if Ray is missing or its version, its token or the address cannot work, `Unavailable` if the address does not
    answer within `cluster.start_timeout_s`, and `RuntimeFailure` if a cluster of our own does not start.
    """
    require_cluster(cluster)
    environment = ray_environment(home, cluster, dict(os.environ))
    os.environ.update(environment)
    own = OwnRay(home, environment) if cluster.address == "local" else None
    try:
        until_s = time.monotonic() + cluster.start_timeout_s
        address = own.address if own is not None else resolved(cluster.address)
        _wait_for(address, own, until_s if own is not None else time.monotonic(), stop)
        _connect(address, own, until_s)
        yield RayCluster(address=address, own=own, nodes=_nodes(address, own))
    finally:
        _disconnect()
        if own is not None:
            own.close()


def resolved(address: str) -> str:
    """The host and port of an address; of `auto`, those that `ray start` noted on this machine. Raises `Unavailable` if there are none."""
    if address != "auto":
        return address
    from ray._private.services import canonicalize_bootstrap_address_or_die

    try:
        return str(canonicalize_bootstrap_address_or_die("auto"))
    except ConnectionError as error:
        raise Unavailable(
            "no Ray cluster runs on this machine: `ray start --head` begins one, or set cluster.address = 'local' or to HOST:PORT"
        ) from error


def silence(address: str) -> str | None:
    """Why nothing listens at an address; None if something does."""
    parts = HOST_PORT.fullmatch(address)
    if parts is None:
        return f"{address} is no address"
    try:
        socket.create_connection((parts["host"].strip("[]"), int(parts["port"])), PROBE_S).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        return _unanswered(address, f"{why[:1].lower()}{why[1:]}")
    return None


def _unanswered(address: str, why: str) -> str:
    return f"the cluster at {address} does not answer ({why}): start it there, or change cluster.address"


def _nodes(address: str, own: OwnRay | None) -> list[NodeRoom]:
    """What nodes that take pieces there are. Raises `Unavailable`, for a cluster that is not ours with what to do."""
    try:
        return rooms()
    except Unavailable as error:
        if own is not None:
            raise
        raise Unavailable(_unanswered(address, f"no answer to a question within {ASK_S:g} s")) from error


def _wait_for(address: str, own: OwnRay | None, until_s: float, stop: Callable[[], bool]) -> None:
    """Wait until something listens there."""
    while (why := silence(address)) is not None:
        dead = own.dead() if own is not None else None
        if dead is not None:
            raise RuntimeFailure(dead)
        if stop() or time.monotonic() >= until_s:
            raise Unavailable(why if own is None else "the head of the local cluster has not begun to listen; see logs/ray.log")
        time.sleep(LOOK_S)


def _connect(address: str, own: OwnRay | None, until_s: float) -> None:
    """Connect, again and again while a head of our own is only just starting."""
    import ray

    def connect() -> None:
        ray.init(
            address=address,
            namespace="perdure",
            log_to_driver=False,
            logging_level="error",
            **({"_node_ip_address": here} if (here := _host_here(address)) else {}),
        )

    dead = own.dead if own is not None else lambda: None
    while True:
        try:
            limited(connect, max(1.0, until_s - time.monotonic()), f"joining the cluster at {address}", dead)
        except Exception as error:
            if own is None or dead() is not None or time.monotonic() >= until_s:
                raise why_not_joined(error, address, own is not None) from error
            with suppress(Exception):
                ray.shutdown()
            time.sleep(LOOK_S)
        else:
            return


def _host_here(address: str) -> str:
    """The host of an address if it is one of this machine, which is then a node under that name; else empty, and Ray finds out itself."""
    parts = HOST_PORT.fullmatch(address)
    host = parts["host"].strip("[]") if parts is not None else ""
    if host in ("", "localhost", "127.0.0.1", "::1"):
        return ""
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        return ""
    return host


def _disconnect() -> None:
    import ray

    with suppress(Exception):
        limited(ray.shutdown, SHUTDOWN_S, "leaving the cluster")


def describe(cluster: RayCluster) -> str:
    """The cluster in a few words: '10.0.0.1:6379, 2 nodes, 16 cores, 2 GPUs'."""
    nodes = cluster.nodes
    cores, gpus = sum(node.total.cpus for node in nodes), sum(node.total.gpus for node in nodes)
    return f"{cluster.address}, {len(nodes)} node{'' if len(nodes) == 1 else 's'}, {cores:g} cores, {gpus:g} GPUs"
