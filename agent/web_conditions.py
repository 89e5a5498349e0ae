"""Whether the page and the API can be served, and where. Loads none of the packages that serve them, which come with the extra `[web]`."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from importlib.util import find_spec
from pathlib import Path

from perdure.agent.config import WebSection
from perdure.agent.web.tokens import token_path
from perdure.memory.errors import InputError, Unavailable

BACKLOG = 512
"""Connections that may wait to be accepted."""
PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "jinja2": "jinja2",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
"""The name of each package by the name of its module."""


def missing_for_web() -> list[str]:
    """The packages that are missing."""
    return [package for module, package in PACKAGES.items() if find_spec(module) is None]


def lacks_packages() -> str | None:
    """Which are missing and the remedy, in one line; None if none is."""
    missing = missing_for_web()
    return f"the page needs {', '.join(missing)}: `pip install 'perdure[web]'`, or set web.enabled = false" if missing else None


def require_web() -> None:
    """Raise `InputError` if one is missing."""
    lack = lacks_packages()
    if lack is not None:
        raise InputError(lack)


def address_of(web: WebSection) -> str:
    """Where the pages are, as in 'http://127.0.0.1:8377'."""
    return f"http://[{web.host}]:{web.port}" if ":" in web.host else f"http://{web.host}:{web.port}"


def listen(host: str, port: int, host_setting: str, port_setting: str) -> socket.socket:
    """A socket that listens there, as these settings say.

    Raises `Unavailable` if the port is taken, and `InputError` if this machine has no such address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:  # perhaps by one that is about to end
            raise Unavailable(f"port {port} of {host} is in use by another program: choose another with {port_setting}") from error
        why = (error.strerror or str(error)).partition(" (while ")[0]  # Python says the address once more
        raise InputError(f"cannot listen on {host}:{port}: {why}; choose others with {host_setting}, {port_setting}") from error


def require_token_beyond_loopback(home: Path, web: WebSection) -> None:
    """Refuse to be reached from other machines without a token that somebody has made. Raises `InputError`."""
    path = token_path(home, web.token_file)
    if not is_loopback(web.host) and not os.path.exists(path):
        raise InputError(
            f"web.host = {web.host!r} lets other machines ask, and there is no token yet: make one first, as by "
            f"`(umask 077; mkdir -p {path.parent}; openssl rand -hex 32 > {path})`, or keep to 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
