"""What a person does with versions: let one serve, reject one, go back, and keep the files of one.

Each takes the version that the person saw serving, `expected`. If another one serves by the time the change is made, it is refused: of two
persons who roll back at once, the second would go back one version too far.
"""

from __future__ import annotations

from collections.abc import Callable

from perdure.memory import versions
from perdure.memory.changes import Who, check_reason, perform
from perdure.memory.errors import Conflict
from perdure.memory.json_value import Document
from perdure.memory.processes import REJECTED, record_event
from perdure.memory.records import Version
from perdure.memory.store import Store


def promote(store: Store, by: Who, name: str, *, reason: str, expected: str | None = None, key: str | None = None) -> Document:
    """Let a version serve without a gate; gives it as `perdure version promote --json`.

    Raises `UnknownError`, `Conflict` if it serves already or another one than `expected` does, `RuntimeFailure` if its files are gone.
    """
    check_reason(reason)

    def change() -> Version:
        versions.require_files(store, versions.get_version(store, name))
        return versions.promote(store, name, reason)

    return _move(store, change, by, "version promote", {"version": name}, reason, expected, key)


def reject(store: Store, by: Who, name: str, *, reason: str, expected: str | None = None, key: str | None = None) -> Document:
    """Reject a candidate, which then never serves; gives it as `perdure version reject --json`. Raises `UnknownError`, `InputError`."""
    check_reason(reason)

    def change() -> Version:
        if versions.get_version(store, name).state == "rejected":
            raise Conflict(f"{name} is rejected already: nothing was changed")
        rejected = versions.reject(store, name)
        record_event(store, REJECTED, name, reason)
        return rejected

    return _move(store, change, by, "version reject", {"version": name}, reason, expected, key)


def rollback(store: Store, by: Who, to: str | None = None, *, reason: str, expected: str | None = None, key: str | None = None) -> Document:
    """Let an earlier version serve again, the one before or `to`; gives it as `perdure version rollback --json`. Raises as `promote`."""
    check_reason(reason)

    def change() -> Version:
        now = versions.rollback(store, to, reason)
        versions.require_files(store, now)
        return now

    return _move(store, change, by, "version rollback", {"version": to}, reason, expected, key)


def pin(
    store: Store,
    by: Who,
    name: str,
    pinned: bool = True,
    *,
    reason: str | None = None,
    expected: str | None = None,
    key: str | None = None,
) -> Document:
    """Keep the files of a version, or no longer; gives it as `perdure version pin --json`. Raises `UnknownError`."""
    what = "version pin" if pinned else "version unpin"
    return _move(store, lambda: versions.pin(store, name, pinned), by, what, {"version": name}, reason, expected, key)


def _move(
    store: Store,
    change: Callable[[], Version],
    by: Who,
    what: str,
    arguments: Document,
    reason: str | None,
    expected: str | None,
    key: str | None,
) -> Document:
    """Perform it if `expected` serves, or whichever version does if that is None."""

    def checked() -> tuple[str, Document]:
        if expected is not None and (now := versions.serving(store).name) != expected:
            raise Conflict(f"{now} serves now, no longer {expected[:64]}: look at what has changed, and ask again")
        changed = change()
        return changed.name, versions.as_json(changed)

    return perform(store, checked, by=by, what=what, arguments={**arguments, "expected": expected}, reason=reason, key=key)
