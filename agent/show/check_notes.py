"""What `perdure env check` found of the environments of a home: kept as events, so that a page can show it.

Left out: the check (`envs/check/checker.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from perdure.memory.environments import require
from perdure.memory.errors import PerdureError
from perdure.memory.json_value import Document, iso_utc
from perdure.memory.processes import events_of, record_event
from perdure.memory.store import Store, open_store

if TYPE_CHECKING:
    from perdure.envs.check.rules import EnvFinding

CHECKED = "env check"
"""The kind of these events; the subject is the environment."""
KEPT, BROKEN = "keeps every rule", "breaks a rule"
MOST = 500
"""Events that are looked through, the newest ones."""
LONGEST = 4000


def conclusion(findings: Sequence[EnvFinding]) -> str:
    """All findings in one line."""
    if not findings:
        return KEPT
    broken = any(finding.level == "error" for finding in findings)
    told = "; ".join(f"{finding.level} ({finding.rule}): {finding.message}" for finding in findings)
    return f"{BROKEN if broken else 'breaks no rule'}: {told}"[:LONGEST]


def note_check(home: Path, environment: str, findings: Sequence[EnvFinding]) -> None:
    """Keep it, if the home knows the environment and can be written; else nothing is kept."""
    with suppress(PerdureError), open_store(home) as store:
        require(store, environment)
        record_event(store, CHECKED, environment, conclusion(findings))


def last_checks(store: Store) -> dict[str, Document]:
    """The last check of each environment that was checked: `{"ok", "found", "checked"}`."""
    found: dict[str, Document] = {}
    for event in events_of(store, (CHECKED,), MOST):
        told = {"ok": not event.message.startswith(BROKEN), "found": event.message, "checked": iso_utc(event.happened)}
        found.setdefault(event.subject, told)
    return found
