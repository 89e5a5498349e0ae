"""How the machine and the processes are: disk, memory, processes, errors, logs, versions of packages; and what persons have changed.

Left out: how the numbers are made (`agent/web/views/system_health.py`).
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from perdure.agent.web.pages.rendering import page
from perdure.agent.web.stores import AtHome
from perdure.agent.web.views.system_health import system_document
from perdure.memory.changes import list_changes
from perdure.memory.layout.sqlite_library import sqlite3

router = APIRouter(include_in_schema=False)

CHANGES = 25
PACKAGES = ("torch", "transformers", "peft", "safetensors", "vllm", "fastapi", "uvicorn", "jinja2", "click", "pydantic", "apscheduler")


@router.get("/system")
def system(request: Request, at: AtHome, before: Annotated[int | None, Query(ge=1, le=2**53)] = None) -> Response:
    with at.reading() as store:
        shown = system_document(store, at.loaded.config.disk)
        changes = list_changes(store, CHANGES, before)
    return page(
        request,
        "system.html",
        system=shown,
        changes=[change.as_json() for change in changes],
        before=changes[-1].id if len(changes) == CHANGES else None,
        first=before is None,
        packages={"Python": python_version(), "SQLite": sqlite3.sqlite_version, **_installed()},
    )


def _installed() -> dict[str, str]:
    """The release of each package that is there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
