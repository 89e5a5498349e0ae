"""The packages that other sources of environments need, and the errors if a package or something in it is missing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from perdure.envs.guarded import describe_error
from perdure.memory.errors import InputError, UnknownError

OF_ITS_OWN = "in a virtual environment of its own, named in [sandbox] python (its pins conflict with others)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """The package of a source."""

    module: str
    summary: str
    remedy: str
    distribution: str = ""
    """The name under which it is installed, if the code of its environments is all in it."""

    @property
    def installed(self) -> bool:
        """Whether it is installed; it is not imported."""
        return find_spec(self.module) is not None


PACKAGES: Mapping[str, Package] = {
    "gym": Package(module="gymnasium", summary="an environment that is registered with Gymnasium", remedy="pip install gymnasium"),
    "textarena": Package(
        module="textarena", summary="a game of TextArena", remedy="pip install textarena==0.7.4", distribution="textarena"
    ),
    "reasoning_gym": Package(
        module="reasoning_gym",
        summary="a dataset of Reasoning Gym",
        remedy="pip install 'perdure[envs]'",
        distribution="reasoning-gym",
    ),
    "gem": Package(
        module="gem", summary="an environment of GEM", remedy=f"pip install gem-llm==0.1.0 {OF_ITS_OWN}", distribution="gem-llm"
    ),
    "verifiers": Package(module="verifiers", summary="a taskset of verifiers", remedy=f"pip install verifiers==0.4.0 {OF_ITS_OWN}"),
    "openenv": Package(module="websockets", summary="a server that speaks OpenEnv, by its URL", remedy="pip install 'perdure[openenv]'"),
}
"""By source. Sources that need no package are not here."""


@cache
def imported(source: str, module: str | None = None) -> ModuleType:
    """A module of the source's package, the package itself by default. Raises `InputError` with the remedy if it is not installed."""
    package = PACKAGES[source]
    if not package.installed:
        raise InputError(f"{source}: the package {package.module} is not installed: {package.remedy}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own code
        return import_module(module or package.module)


def does_not_work(name: str, error: BaseException) -> InputError:
    """The error for a foreign environment that does not work here, in one line: missing data files, a missing key, a syntax error."""
    reason = next(
        (line.strip() for line in describe_error(error).splitlines() if line.strip(" *").removeprefix(f"{type(error).__name__}:")), ""
    )
    reason = reason.removeprefix(f"{type(error).__name__}:").strip()
    return InputError(f"{name} does not work here: {type(error).__name__}" + (f": {reason}" if reason else ""))


def unknown(kind: str, id_: str, known: Iterable[str]) -> UnknownError:
    """The error for an unknown name; it names the nearest known ones."""
    near = get_close_matches(id_, list(known), n=3, cutoff=0.5)
    return UnknownError(f"no {kind} is named {id_!r}" + (f"; did you mean {' or '.join(near)}?" if near else "."))
