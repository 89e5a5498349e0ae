"""Which versions still need their files, and which files can be removed.

`version gc` removes files; `store check` and `store backup` look for those that are needed. Rows of versions always stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from perdure.memory.contracts.orders import GateOrder, LearnOrder, PanelOrder, ProbeOrder
from perdure.memory.environments import anchor_of, list_environments
from perdure.memory.jobs import unfinished_jobs
from perdure.memory.records import Version
from perdure.memory.store import Store, reading_row
from perdure.memory.versions import SERVED, ancestors, list_versions

OPPONENT = re.compile(r"[?&]opponent=(v[0-9]+)(?:&|$)")


def needed_versions(store: Store) -> frozenset[str]:
    """The versions that may be loaded: serving, anchors, opponents, pinned, and candidates that are not `removable_versions`."""
    anchors, unneeded = _anchors(store) | _opponents(store), removable_versions(store)
    return frozenset(
        version.name
        for version in list_versions(store)
        if (version.state in ("serving", "candidate") and version.name not in unneeded) or version.pinned or version.name in anchors
    )


def removable_versions(store: Store) -> dict[str, str]:
    """The versions whose files are no longer needed, each with the reason: rejected ones, and candidates that no job can start from.

    Files stay for versions that serve or served (for a rollback), anchors, opponents in games, pinned versions, versions that an unfinished
    job names, candidates that a person imported, and the ancestors of all these.
    """
    versions = {version.name: version for version in list_versions(store)}
    needed = _anchors(store)
    needed |= {name for name in _opponents(store) | _named_by_jobs(store) if name in versions}
    why: dict[str, str] = {}
    with reading_row("a row that names a version"):
        for name, version in versions.items():
            if version.state == "rejected":
                why[name] = "it was rejected"
            elif version.state == "candidate" and version.job is not None:
                base = _last_served(versions, version)
                if versions[base].state != "serving":
                    why[name] = f"it was made from {base}, which no longer serves"
        needed |= {name for name, version in versions.items() if version.pinned or name not in why}
        for name in list(needed):
            needed |= {ancestor.name for ancestor in ancestors(versions[name], versions.__getitem__)}
    return {name: reason for name, reason in why.items() if name not in needed}


def _anchors(store: Store) -> set[str]:
    """The anchors of all environments."""
    anchors = (anchor_of(store, row.name) for row in list_environments(store))
    return {name for name in anchors if name is not None}


def _opponents(store: Store) -> set[str]:
    """The versions that registered environments name as players of the other seats."""
    return {match[1] for row in list_environments(store) if (match := OPPONENT.search(row.name))}


def _last_served(versions: Mapping[str, Version], version: Version) -> str:
    """The nearest ancestor that serves or served."""
    line = (version, *ancestors(version, versions.__getitem__))
    return next((one.name for one in line if one.state in SERVED), line[-1].name)


def _named_by_jobs(store: Store) -> set[str]:
    """The versions that unfinished jobs start from, made, gate or probe."""
    found: set[str] = set()
    for job in unfinished_jobs(store):
        match job.order:
            case LearnOrder(start=name) | GateOrder(candidate=name) | ProbeOrder(version=name) | PanelOrder(version=name):
                found |= {name} if name else set()
        found |= {made["name"] for made in store.rows("SELECT name FROM version WHERE job = ?", (job.id,))}
    return found
