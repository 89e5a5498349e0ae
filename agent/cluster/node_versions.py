"""Which versions a node has, and in one line why two do not go together.

Ray itself refuses nodes with another Ray or Python; whether they have the same Perdure is asked when a piece is placed.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from perdure import __version__

NAMES = {"perdure": "Perdure", "ray": "Ray", "python": "Python"}


def versions_here() -> dict[str, str]:
    """The versions of Perdure, Ray and Python in this process; Ray's is empty if it is not installed."""
    try:
        ray = version("ray")
    except PackageNotFoundError:
        ray = ""
    return {"perdure": __version__, "ray": ray, "python": platform.python_version()}


def other_version(node: str, there: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """Why a node does not fit the head: both versions, and what to do; None if it fits."""
    for key, name in NAMES.items():
        if there.get(key, "") != here[key]:
            found = there.get(key) or "none"
            return f"node {node} has {name} {found} and the head has {here[key] or 'none'}: install the same version on both"
    return None
