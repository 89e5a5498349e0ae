"""What `perdure env list` shows: environments and sources, none of which is imported."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib.metadata import entry_points

from perdure.envs.builtin import BUILTINS
from perdure.envs.environment_names import Option, as_options
from perdure.envs.sources.factory import signature_options
from perdure.envs.sources.packages import PACKAGES
from perdure.memory.json_value import JsonObject

ENTRY_POINTS = "perdure.envs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """An environment or a source, without loading it."""

    name: str
    summary: str
    options: tuple[Option, ...]
    installed: bool = True
    """Whether the package of the source is installed."""

    def as_json(self) -> JsonObject:
        options = [option.as_json() for option in self.options]
        return {"name": self.name, "summary": self.summary, "options": [*options], "installed": self.installed}


def builtin_names() -> list[str]:
    """The names of all built-in environments, without options."""
    return [f"perdure:{name}" for name in BUILTINS]


def listings() -> list[Listing]:
    """All built-in environments, the sources that need a package, and the plug-ins of installed packages."""
    builtins = [
        Listing(
            name=f"perdure:{name}",
            summary=inspect.cleandoc(game.__doc__ or "").split("\n")[0],
            options=as_options(signature_options(game)[0]),
        )
        for name, game in BUILTINS.items()
    ]
    sources = [
        Listing(
            name=f"{source}:ID",
            summary=package.summary if package.installed else f"{package.summary}; not installed: {package.remedy}",
            options=(),
            installed=package.installed,
        )
        for source, package in PACKAGES.items()
    ]
    plugins = [Listing(name=f"plugin:{entry.name}", summary=entry.value, options=()) for entry in entry_points(group=ENTRY_POINTS)]
    return builtins + sources + sorted(plugins, key=lambda listing: listing.name)
