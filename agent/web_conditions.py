"""Whether the page and the API can be served, and where. Loads none of the packages that serve them, which come with the extra `[web]`."""

from __future__ import annotations

import ipaddress
from importlib.util import find_spec
from pathlib import Path

from perdure.agent.config import Config, WebSection
from perdure.agent.web.tokens import token_path
from perdure.memory.errors import InputError

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


def require_web() -> None:
    """Raise `InputError` if one is missing."""
    missing = missing_for_web()
    if missing:
        raise InputError(f"the page needs {', '.join(missing)}: `pip install 'perdure[web]'`, or set web.enabled = false")


def serves(config: Config) -> bool:
    """Whether a daemon of this configuration serves the page."""
    return config.web.enabled and not missing_for_web()


def address_of(web: WebSection) -> str:
    """Where the pages are, as in 'http://127.0.0.1:8377'."""
    return f"http://[{web.host}]:{web.port}" if ":" in web.host else f"http://{web.host}:{web.port}"


def require_token_beyond_loopback(home: Path, web: WebSection) -> None:
    """Refuse to be reached from other machines without a token that somebody has made. Raises `InputError`."""
    path = token_path(home, web.token_file)
    if not _is_loopback(web.host) and not path.exists():
        raise InputError(
            f"web.host = {web.host!r} lets other machines ask, and there is no token yet: make one first, as by "
            f"`(umask 077; mkdir -p {path.parent}; openssl rand -hex 32 > {path})`, or keep to 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
