"""Versions of the agent, and which one serves.

The serving pointer is the one row in state `serving`. A move changes the pointer, the states of both versions, the move log and the anchors
in one transaction. A rollback is the same move backwards: it touches no file and takes milliseconds. A rejected version never serves.

The move log is a stack: a promotion puts a version on it, a rollback removes all above the version that it returns to.
Left out: the evidence that a candidate needs (`learners/gate/decision.py`), loading its weights (`learners/engines/`), and which files can
be removed (`upkeep/garbage.py`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Literal

from perdure.memory import faults, leases
from perdure.memory.errors import Conflict, InputError, RuntimeFailure, Unavailable, UnknownError
from perdure.memory.json_value import Document, iso_utc, to_json
from perdure.memory.processes import record_event
from perdure.memory.records import Lease, Version
from perdure.memory.store import Store, reading_row

INITIAL = "v0"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SERVED = ("serving", "retired")


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One move of the serving pointer."""

    kind: Literal["initial", "promote", "rollback"]
    from_version: str | None
    to_version: str
    gate: int | None
    reason: str
    moved: float

    def as_json(self) -> Document:
        """The listing's keys."""
        return {
            "kind": self.kind,
            "from": self.from_version,
            "to": self.to_version,
            "gate": self.gate,
            "reason": self.reason,
            "moved": iso_utc(self.moved),
        }


def as_json(version: Version) -> Document:
    """The listing's keys."""
    return {
        "name": version.name,
        "state": version.state,
        "parent": version.parent,
        "created": iso_utc(version.created),
        "hash": version.hash,
        "targets": list(version.targets),
        "job": version.job,
        "pinned": version.pinned,
        "path": version.path,
    }


def add_initial(store: Store, base_model: str, base_hash: str) -> Version:
    """Add the base model as the first version, serving. Adding the same base again changes nothing; another base is refused."""
    with store.write() as conn:
        rows = store.rows("SELECT base_model, base_hash FROM version WHERE name = ?", (INITIAL,))
        if rows and rows[0]["base_hash"] != base_hash:
            raise refused_model(store, base_model, base_hash)
        if not rows:
            now = time.time()
            conn.execute(
                """
                INSERT INTO version (name, parent, state, hash, path, base_model, base_hash, created_at)
                VALUES (?, NULL, 'serving', ?, NULL, ?, ?, ?)
                """,
                (INITIAL, base_hash, base_model, base_hash, now),
            )
            conn.execute(
                "INSERT INTO move (kind, from_version, to_version, reason, moved_at) VALUES ('initial', NULL, ?, 'the base model', ?)",
                (INITIAL, now),
            )
        return get_version(store, INITIAL)


def refused_model(store: Store, base_model: str, base_hash: str | None = None) -> InputError:
    """The error for a model that is not the one of this home; its hash, if it is known, tells whether it only changed."""
    own, own_hash = base_of(store, INITIAL)
    problem = f"belong to the model {own!r}, not to {base_model!r}: name the old model in the config"
    if own == base_model and base_hash:
        problem = f"began with other files of {own!r} (hash {own_hash[:12]}, now {base_hash[:12]}): restore them or name a revision"
    return InputError(f"the versions in {store.home} {problem}, or another folder with --home")


def next_name(store: Store) -> str:
    """The next unused name, 'v<N>': above all versions and folders under `versions/`. It is not reserved yet (`reserve_name`)."""
    names = [row["name"] for row in store.rows("SELECT name FROM version")]
    folder = store.home / "versions"
    names += [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    numbers = [int(match[1]) for match in (re.match(r"v(\d+)", name) for name in names) if match]
    return f"v{max(numbers, default=-1) + 1}"


def reserve_name(store: Store) -> str:
    """Reserve the name from `next_name` by making its folder, empty. Raises `Unavailable`."""
    while True:
        folder = store.home / "versions" / next_name(store)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another process was faster
            continue
        except OSError as error:
            raise Unavailable(f"cannot make {folder}: {error.strerror}; nothing was changed") from error
        return folder.name


def add_candidate(
    store: Store, lease: Lease | None, name: str, parent: str, hash: str, path: str | None, targets: Sequence[str], job: int | None
) -> Version:
    """Add a candidate whose folder is on the disk already. `lease` is that of the job that made it; None if a person imports it.

    Adding the same again changes nothing. Raises `InputError` if the name is taken or not allowed, `RuntimeFailure` without its folder.
    """
    _check_name(name)
    if path is not None:
        _check_folder(store, path)
    with store.write() as conn:
        if lease is not None:
            leases.check(store, "job", lease)
        base_model, base_hash = base_of(store, parent)
        taken = store.rows("SELECT parent, hash, path, job FROM version WHERE name = ?", (name,))
        if taken and tuple(taken[0]) != (parent, hash, path, job):
            raise InputError(f"the name {name!r} belongs to another version, and names are never reused: take {next_name(store)!r}")
        if not taken:
            conn.execute(
                """
                INSERT INTO version (name, parent, state, hash, path, base_model, base_hash, targets, job, created_at)
                VALUES (?, ?, 'candidate', ?, ?, ?, ?, ?, ?, ?)
                """,
                (name, parent, hash, path, base_model, base_hash, to_json(list(targets)), job, time.time()),
            )
        return get_version(store, name)


def get_version(store: Store, name: str) -> Version:
    """Raises `UnknownError`."""
    rows = store.rows("SELECT * FROM version WHERE name = ?", (name,))
    if not rows:
        raise UnknownError(f"no version {name[:64]!r}; `perdure version list` shows them")
    return _version(rows[0])


def base_of(store: Store, name: str) -> tuple[str, str]:
    """Name and hash of the base model of a version. Raises `UnknownError`."""
    rows = store.rows("SELECT base_model, base_hash FROM version WHERE name = ?", (get_version(store, name).name,))
    return rows[0]["base_model"], rows[0]["base_hash"]


def list_versions(store: Store) -> list[Version]:
    """All versions, newest first."""
    return [_version(row) for row in store.rows("SELECT * FROM version ORDER BY rowid DESC")]


def serving(store: Store) -> Version:
    """The version that serves. Raises `UnknownError` if none serves yet."""
    rows = store.rows("SELECT * FROM version WHERE state = 'serving'")
    if not rows:
        raise UnknownError(f"no version serves in {store.home} yet: start `perdure run`")
    return _version(rows[0])


def served_before(store: Store) -> Version | None:
    """The version to which a rollback goes: the one that served before the serving one. None if there is none."""
    stack = _stack(moves(store))
    return get_version(store, stack[-2]) if len(stack) > 1 else None


def moves(store: Store) -> list[Move]:
    """Every move of the serving pointer, oldest first."""
    return [
        Move(
            kind=row["kind"],
            from_version=row["from_version"],
            to_version=row["to_version"],
            gate=row["gate"],
            reason=row["reason"],
            moved=row["moved_at"],
        )
        for row in store.rows("SELECT * FROM move ORDER BY id")
    ]


def promote(
    store: Store,
    name: str,
    reason: str,
    gate: int | None = None,
    lease: Lease | None = None,
    anchors: Sequence[str] | None = None,
) -> Version:
    """Make a candidate, or a version that served before, the serving version.

    With a gate, its verdict must be promote, for this version and against the one that still serves, and the version's ancestor must not
    have been rolled back. Without a gate, a person takes the responsibility. The version becomes the anchor of the environments in
    `anchors`: those in which the gate showed that it beats the anchor. With None, of those of its targets that have no promoted one yet.
    """
    _check_reason(reason)
    with store.write() as conn:
        if lease is not None:
            leases.check(store, "job", lease)
        version, old = get_version(store, name), serving(store)
        if version.state == "serving":
            if gate is not None and store.rows("SELECT 1 FROM move WHERE gate = ? AND to_version = ?", (gate, name)):
                return version
            raise Conflict(f"{name} serves already")
        if version.state == "rejected":
            raise InputError(f"{name} was rejected and never serves: train another candidate with `perdure learn`")
        if gate is not None:
            _check_gate(store, gate, name, old.name)
        _move(store, "promote", old.name, name, gate, reason)
        faults.point("mid-promotion")
        if anchors is None:
            for target in version.targets:
                conn.execute("UPDATE environment SET anchor = ? WHERE name = ? AND anchor IS NULL", (name, target))
        for environment in anchors or ():
            conn.execute("UPDATE environment SET anchor = ? WHERE name = ?", (name, environment))
        return get_version(store, name)


def rollback(store: Store, to: str | None, reason: str) -> Version:
    """Make an earlier version serve again, `to` or the one that served before the current one, and return it.

    It becomes the anchor of environments whose anchor was promoted later: the agent has lost that skill, and a gate that still asked for it
    would reject every candidate. The event log names these environments.
    """
    _check_reason(reason)
    with store.write() as conn:
        old, stack = serving(store), _stack(moves(store))
        if to is None and len(stack) < 2:
            raise InputError(f"{old.name} is the first version: there is no earlier one")
        version = get_version(store, stack[-2] if to is None else to)
        if version.state == "serving":
            raise Conflict(f"{version.name} serves already")
        if version.state != "retired":
            raise InputError(f"{version.name} is {version.state} and never served: a rollback goes to a version that served before")
        _move(store, "rollback", old.name, version.name, None, reason)
        faults.point("mid-rollback")
        undone = stack[stack.index(version.name) + 1 :] if version.name in stack else []
        lost = []
        for later in undone:
            lost += [row["name"] for row in store.rows("SELECT name FROM environment WHERE anchor = ?", (later,))]
            conn.execute("UPDATE environment SET anchor = ? WHERE anchor = ?", (version.name, later))
        record_event(
            store,
            "rollback",
            version.name,
            f"from {old.name}: {reason}" + (f"; loses what was learned in {', '.join(lost)}" if lost else ""),
        )
        return get_version(store, version.name)


def served_line(store: Store) -> list[str]:
    """The versions that led to the serving one and served, the oldest first, without those that were rolled back; the last serves."""
    return _stack(moves(store))


def version_of_job(store: Store, job: int) -> Version | None:
    """The latest version that a job has made; None if it made none."""
    rows = store.rows("SELECT name FROM version WHERE job = ? ORDER BY rowid DESC LIMIT 1", (job,))
    return get_version(store, rows[0]["name"]) if rows else None


def rolled_back_ancestor(store: Store, name: str) -> str | None:
    """The last ancestor of `name` that served, if it was rolled back; None if it was not. Candidates in between are skipped."""
    line = ancestors(get_version(store, name), partial(get_version, store))
    served = next((one.name for one in line if one.state in SERVED), None)
    return None if served in _stack(moves(store)) else served


def served_ancestor(store: Store, name: str) -> str:
    """The last ancestor of a version that serves or served; of the base model itself. Candidates in between are skipped."""
    line = list(ancestors(get_version(store, name), partial(get_version, store)))
    return next((one.name for one in line if one.state in SERVED), line[-1].name if line else name)


def ancestors(version: Version, get: Callable[[str], Version]) -> Iterator[Version]:
    """The parent of a version, its parent, and so on. Raises `RuntimeFailure` if they form a circle, as only damage makes them."""
    seen: set[str] = set()
    while version.parent is not None:
        if version.name in seen:
            raise RuntimeFailure(f"version {version.name} is an ancestor of itself: `perdure store check`, and restore a backup")
        seen.add(version.name)
        yield (version := get(version.parent))


def reject(store: Store, name: str, lease: Lease | None = None) -> Version:
    """Reject a candidate: it never serves."""
    with store.write() as conn:
        if lease is not None:
            leases.check(store, "job", lease)
        version = get_version(store, name)
        if version.state not in ("candidate", "rejected"):
            raise InputError(
                f"{name} is {version.state}: only a candidate can be rejected; use `perdure version rollback` to replace a serving one"
            )
        conn.execute("UPDATE version SET state = 'rejected' WHERE name = ?", (name,))
        return get_version(store, name)


def require_files(store: Store, version: Version) -> None:
    """Raise `RuntimeFailure` if a version cannot be loaded because its files are gone, as after `perdure version gc`."""
    if version.path is not None and not (store.home / version.path).is_dir():
        raise RuntimeFailure(f"the files of {version.name} are not in {store.home / version.path}: restore them, or name another version")


def pin(store: Store, name: str, pinned: bool = True) -> Version:
    """Keep the files of a version: `version gc` does not remove them."""
    with store.write() as conn:
        get_version(store, name)
        conn.execute("UPDATE version SET pinned = ? WHERE name = ?", (int(pinned), name))
        return get_version(store, name)


def _move(store: Store, kind: Literal["promote", "rollback"], old: str, new: str, gate: int | None, reason: str) -> None:
    with store.write() as conn:
        conn.execute("UPDATE version SET state = 'retired' WHERE name = ?", (old,))
        conn.execute("UPDATE version SET state = 'serving' WHERE name = ?", (new,))
        conn.execute(
            "INSERT INTO move (kind, from_version, to_version, gate, reason, moved_at) VALUES (?, ?, ?, ?, ?, ?)",
            (kind, old, new, gate, reason, time.time()),
        )


def _stack(log: Sequence[Move]) -> list[str]:
    """The versions that led to the serving one, which is the last."""
    stack: list[str] = []
    for move in log:
        if move.kind == "rollback" and move.to_version in stack:
            del stack[stack.index(move.to_version) + 1 :]
        else:
            stack = [name for name in stack if name != move.to_version]
            stack.append(move.to_version)
    return stack


def _check_gate(store: Store, gate: int, candidate: str, serving: str) -> None:
    rows = store.rows("SELECT candidate, serving, verdict FROM gate WHERE id = ?", (gate,))
    if not rows:
        raise UnknownError(f"no gate {gate}")
    row = rows[0]
    if row["candidate"] != candidate or row["verdict"] != "promote":
        raise InputError(
            f"gate {gate} has the verdict {row['verdict'] or 'none yet'} on {row['candidate']}: it does not promote {candidate}"
        )
    if row["serving"] != serving:
        raise InputError(f"gate {gate} compared {candidate} with {row['serving']}, but now {serving} serves: gate it again")
    if (left := rolled_back_ancestor(store, candidate)) is not None:
        raise InputError(f"{candidate} was trained from {left}, which was rolled back: only a person can promote it")


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot name a version: use at most 64 small letters, digits, '.', '_' and '-', a letter or digit first")


def _check_folder(store: Store, path: str) -> None:
    """Raise unless the folder exists and is inside the home."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise InputError(f"give the folder of a version relative to the home, without '..', not {path!r}")
    if not (store.home / path).is_dir():
        raise RuntimeFailure(f"{store.home / path} is missing: write and sync the folder of a version before its row")


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise InputError("say why with --reason: the move log keeps it")


def _version(row: Any) -> Version:
    with reading_row(f"version {row['name']}"):
        return Version(
            name=row["name"],
            parent=row["parent"],
            state=row["state"],
            hash=row["hash"],
            path=row["path"],
            targets=tuple(json.loads(row["targets"])),
            job=row["job"],
            pinned=bool(row["pinned"]),
            created=row["created_at"],
        )
