"""Whether what a cluster needs is installed, and its settings go together. Loads none of it: it comes with the extra `[cluster]`."""

from __future__ import annotations

from importlib.util import find_spec

from perdure.agent.cluster.cluster_settings import HOST_PORT, ClusterSection
from perdure.agent.web_conditions import is_loopback
from perdure.memory.errors import InputError

PACKAGES = {"ray": "ray", "uvicorn": "uvicorn", "httpx": "httpx"}
"""The name of each package by the name of its module."""


def lacks_cluster_packages() -> str | None:
    """Which are missing and the remedy, in one line; None if none is."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    return f"a cluster needs {', '.join(missing)}: `pip install 'perdure[cluster]'`, or leave cluster.address empty" if missing else None


def require_cluster(cluster: ClusterSection) -> None:
    """Raise `InputError` if a cluster is wanted and cannot be."""
    if cluster.address:
        lack = lacks_cluster_packages()
        if lack is not None:
            raise InputError(lack)
        host = HOST_PORT.fullmatch(cluster.address)
        if host is not None and not is_loopback(host["host"].strip("[]")) and is_loopback(cluster.listen):
            raise InputError(
                f"cluster.listen = {cluster.listen!r} cannot be reached from other nodes of {cluster.address}: set it to this "
                "machine's address in their network"
            )
    elif cluster.players:
        raise InputError("cluster.players is set and cluster.address is empty: set it to 'local', 'auto' or HOST:PORT")
