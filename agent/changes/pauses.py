"""Pausing play and learning, and going on. The daemon reads what is paused from the store; nothing is sent to it."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.memory import processes
from perdure.memory.changes import Who, check_reason, perform
from perdure.memory.errors import Conflict, InputError
from perdure.memory.json_value import Document
from perdure.memory.processes import Pausable
from perdure.memory.store import Store

PAUSABLE: tuple[Pausable, ...] = ("play", "learning")


def pause(store: Store, by: Who, what: Pausable | None = None, *, reason: str, key: str | None = None) -> list[Document]:
    """Pause play, learning, or both; gives what is paused then, as `perdure pause --json`. What is paused already gets the new reason."""
    check_reason(reason)
    chosen = _chosen(what)

    def change() -> tuple[str, list[Document]]:
        for one in chosen:
            processes.pause(store, one, reason)
        return " and ".join(chosen), _paused(store)

    return perform(store, change, by=by, what="pause", arguments={"what": what}, reason=reason, key=key)


def resume(store: Store, by: Who, what: Pausable | None = None, *, reason: str | None = None, key: str | None = None) -> list[Document]:
    """End pauses; gives what is still paused, as `perdure resume --json`. Raises `Conflict` if none of it is paused."""
    chosen = _chosen(what)

    def change() -> tuple[str, list[Document]]:
        ended = [one for one in chosen if processes.resume(store, one)]
        if not ended:
            raise Conflict(f"{what or 'nothing'} {'is not' if what else 'is'} paused: `perdure status` shows what is")
        return " and ".join(ended), _paused(store)

    return perform(store, change, by=by, what="resume", arguments={"what": what}, reason=reason, key=key)


def _chosen(what: Pausable | None) -> Sequence[Pausable]:
    if what is not None and what not in PAUSABLE:
        raise InputError(f"{str(what)[:40]!r} cannot be paused: name play or learning, or leave it out for both")
    return PAUSABLE if what is None else (what,)


def _paused(store: Store) -> list[Document]:
    return [one.as_json() for one in processes.pauses(store)]
