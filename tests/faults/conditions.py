"""States of the machine that are no kill: a full disk, a locked store, damaged files, a clock that is set, a second daemon.

Each function says what it did and what it saw, and whether that is what must be.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from tests.faults.cases import ABORTED, rest, succeed
from tests.faults.games import RIGGED
from tests.faults.invariants import Findings
from tests.faults.place import Place
from tests.faults.table import Condition

from perdure.learners.option_parsing import parse_options
from perdure.learners.trainees.trainee import open_trainee
from perdure.learners.weights.adapters import write_version, write_weights
from perdure.learners.weights.base_models import ModelFiles
from perdure.memory import versions
from perdure.memory.contracts.orders import GateOrder
from perdure.memory.jobs import add_job
from perdure.memory.layout.sqlite_library import sqlite3
from perdure.memory.store import BUSY_TIMEOUT_MS, Store, open_store

DISK_BYTES = 48 * 2**20
ROOM_BYTES = 4 * 2**20
"""What a daemon finds free on it: less than its write-ahead log takes."""

DAY_S = 86_400.0
SETTLED_S = 2.0


class Impossible(Exception):
    """This machine does not let the condition be made."""


def disk_full(path: Path, model: ModelFiles) -> Condition:
    """A daemon on a small file system of its own fills it; then room is made."""
    name, done = "disk full", f"a daemon plays on a tmpfs of {DISK_BYTES // 2**20} MiB until it is full, and then room is made"
    no_floor = "[disk]\nfloor_gib = 0.0\n"
    home = path / "home"
    with _mounted(home, ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(home)]), Place(path, model.path, more=no_floor) as place:
        place.start()
        _serves(place)
        ballast = place.home / "ballast"
        with ballast.open("wb") as file:
            while (free := shutil.disk_usage(place.home).free) > ROOM_BYTES:
                file.write(bytes(min(2**16, free - ROOM_BYTES + 1)))
                file.flush()
        log = place.path / "daemon.log"  # outside: where not even an event finds room, it is said there
        place.wait("the daemon to say that the disk is full", lambda: _said(place, "is full") or "is full" in log.read_text())
        place.wait("play to cease", lambda: _silent(place, SETTLED_S))
        acknowledged = len(place.acknowledged.turns)
        alive = place.daemon is not None and place.daemon.poll() is None
        while_full = place.examine()
        ballast.unlink()
        seconds = place.serves_after(time.monotonic())
        after = place.examine()
        broken = [*_told(while_full), *_told(after), *([] if alive else ["the supervisor died"])]
        rest(place)
    seen = (
        f"the supervisor lives on; none of {acknowledged} acknowledged turns is lost; it serves again {seconds:.1f} s after there is room"
    )
    return Condition(name=name, done=done, seen=seen, broken=tuple(broken))


def read_only(path: Path, model: ModelFiles) -> Condition:
    """A daemon is started on a home that is mounted read-only; then the mount is gone."""
    with _played(path, model) as place:
        bind = ["--bind", str(place.home), str(place.home)]
        with _mounted(place.home, bind, ["-o", "remount,bind,ro", str(place.home)]):
            place.start()
            code = place.ended()
        said = (place.path / "daemon.log").read_text().splitlines()[-1:]
        broken = [] if code == 3 and "read-only" in "".join(said) else [f"it ended with {code} and said {said}"]
        seconds = place.serves_after(place.start())
        broken += _told(place.examine())
        rest(place)
    return Condition(
        name="read-only mount",
        done="a daemon is started on a home that is mounted read-only, and again when it is not",
        seen=f"the first ends with exit code 3 and one line that says so; the second serves after {seconds:.1f} s, and nothing is lost",
        broken=tuple(broken),
    )


def locked(path: Path, model: ModelFiles, hold_s: float) -> Condition:
    """Another program holds the write lock of the database."""
    longer = hold_s > BUSY_TIMEOUT_MS / 1000
    with _played(path, model) as place:
        place.start()
        _serves(place)
        actor = place.child("actor")
        other = sqlite3.connect(str(place.home / "perdure.db"), isolation_level=None)
        other.execute("PRAGMA busy_timeout = 15000")
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(hold_s)
        alive = place.daemon is not None and place.daemon.poll() is None
        other.execute("ROLLBACK")
        moment = time.monotonic()
        other.close()
        seconds = place.serves_after(moment)
        broken = _told(place.examine())
        same = place.child("actor") == actor
        if not alive or (not longer and not same):
            broken.append("the supervisor died" if not alive else "the actor died")
        rest(place)
    told = "nobody dies" if same else "the actor gives up and is started again"
    return Condition(
        name=f"locked database, {'longer' if longer else 'shorter'} than the busy timeout",
        done=f"another program holds an exclusive lock for {hold_s:.0f} s; the timeout is {BUSY_TIMEOUT_MS / 1000:.0f} s",
        seen=f"{told}; it serves again {seconds:.1f} s after the lock is gone, and nothing is lost",
        broken=tuple(broken),
    )


Damage = Literal["corrupted", "truncated"]


def damaged_serving(path: Path, model: ModelFiles, damage: Damage) -> Condition:
    """The adapter of the version that serves is damaged while nothing runs. With the real engine, as it is that which checks."""
    with _played(path, model, actor="tests.faults.engine_actor") as place:
        with open_store(place.home) as store:
            name = _add_version(store, model)
            versions.promote(store, name, "the suite wants it")
        _damage(place.home / "versions" / name, damage)
        place.start()
        place.wait("the actor to refuse the files", lambda: _said(place, "changed or damaged"))
        played = place.ask(f"SELECT count(*) FROM turn WHERE version = '{name}'")
        broken = [f"{played} turns were played with it"] if played else []
        succeed(place, "version", "rollback", "--reason", "its files are damaged")
        seconds = place.serves_after(time.monotonic())
        with open_store(place.home) as store:
            broken += [] if versions.serving(store).name == "v0" else ["v0 does not serve after the rollback"]
        place.stop()
        broken += [line for line in _told(place.examine(at_rest=True)) if f"the files of {name}" not in line]
    return Condition(
        name=f"{damage} adapter of the serving version",
        done=f"its weights are {_how(damage)}, and the daemon is started",
        seen=f"nothing is played with it, and the log names the file; after `perdure version rollback` v0 serves within {seconds:.1f} s",
        broken=tuple(broken),
    )


def damaged_candidate(path: Path, model: ModelFiles, damage: Damage) -> Condition:
    """The adapter of a candidate is damaged before its gate."""
    with _played(path, model) as place:
        with open_store(place.home) as store:
            name = _add_version(store, model)
            _damage(place.home / "versions" / name, damage)
            job = add_job(store, "gate it", [], GateOrder(candidate=name, profile="economy"))
        place.start()
        ended = place.job_ends(job)
        seconds = place.serves_after(time.monotonic())
        broken = (
            [] if ended.state == "failed" and "changed or damaged" in (ended.error or "") else [f"its gate: {ended.state}, {ended.error}"]
        )
        with open_store(place.home) as store:
            states = {version.name: version.state for version in versions.list_versions(store)}
        if states != {"v0": "serving", name: "candidate"}:
            broken.append(f"versions are {states}")
        place.stop()
        broken += [line for line in _told(place.examine(at_rest=True)) if f"the files of {name}" not in line]
    return Condition(
        name=f"{damage} adapter of a candidate",
        done=f"its weights are {_how(damage)}, and a job gates it",
        seen=f"the job fails and names the file, the candidate never serves, and play goes on ({seconds:.1f} s to the next turn)",
        broken=tuple(broken),
    )


def clock_set(path: Path, model: ModelFiles) -> Condition:
    """The wall clock is a day back and then a day forth, as the daemon sees it: every stamp in the store moves the other way."""
    with _played(path, model) as place:
        place.start()
        _serves(place)
        actor, aborted = place.child("actor"), place.ask(ABORTED)
        times = []
        for shift_s in (DAY_S, -2 * DAY_S):
            _shift_stamps(place, shift_s)
            times.append(place.serves_after(time.monotonic()))
            time.sleep(1.0)
            times.append(place.serves_after(time.monotonic()))
        broken = _told(place.examine())
        if place.child("actor") != actor:
            broken.append("the actor was started again")
        if place.ask(ABORTED) != aborted:
            broken.append("episodes were aborted")
        rest(place)
    return Condition(
        name="wall clock set back and forth",
        done="every stamp in the store is moved a day forth and then two days back while the daemon plays, which is to it as if the clock "
        "were set; the machine's own clock is not touched",
        seen=f"no lease is lost, no process starts again, and play goes on (a turn within {max(times):.1f} s)",
        broken=tuple(broken),
    )


def two_daemons(path: Path, model: ModelFiles) -> Condition:
    """A second daemon on a home that has one, and two that are started at once."""
    rival = Place(path, model.path)
    with _played(path, model) as place:
        place.start()
        _serves(place)
        assert place.daemon is not None
        rival.start()
        code = rival.ended()
        said = (place.path / "daemon.log").read_text()
        broken = [] if code == 2 and f"process {place.daemon.pid}" in said else [f"the second ended with {code}"]
        seconds = place.serves_after(time.monotonic())
        rest(place)

        moment = place.start()
        rival.start()
        both = (place.daemon, rival.daemon)
        place.wait("one of them to give way", lambda: any(one is not None and one.poll() is not None for one in both))
        codes = sorted(str(one.poll()) for one in both if one is not None)
        if codes != ["2", "None"]:
            broken.append(f"of two that start at once the exit codes are {codes}")
        if place.daemon.poll() is not None:
            place.daemon, rival.daemon = rival.daemon, None
        else:
            rival.daemon = None
        place.serves_after(moment)
        broken += _told(place.examine())
        rest(place)
    return Condition(
        name="two daemons on one home",
        done="a second one is started beside the first, and then two at once",
        seen=f"one goes on (a turn within {seconds:.1f} s), the other ends with exit code 2 and names the process that has the home",
        broken=tuple(broken),
    )


def conditions() -> Sequence[tuple[str, Callable[[Path, ModelFiles], Condition]]]:
    """All of them, by a short name."""
    return (
        ("disk-full", disk_full),
        ("read-only", read_only),
        ("locked-shorter", lambda path, model: locked(path, model, 5.0)),
        ("locked-longer", lambda path, model: locked(path, model, BUSY_TIMEOUT_MS / 1000 + 3)),
        ("corrupted-serving", lambda path, model: damaged_serving(path, model, "corrupted")),
        ("truncated-serving", lambda path, model: damaged_serving(path, model, "truncated")),
        ("corrupted-candidate", lambda path, model: damaged_candidate(path, model, "corrupted")),
        ("truncated-candidate", lambda path, model: damaged_candidate(path, model, "truncated")),
        ("clock", clock_set),
        ("two-daemons", two_daemons),
    )


@contextmanager
def _mounted(target: Path, *mounts: Sequence[str]) -> Iterator[None]:
    """Mount over `target` while this lasts. Raises `Impossible` where this machine does not let us."""
    if os.geteuid() != 0:
        raise Impossible("only root can mount")
    target.mkdir(parents=True, exist_ok=True)
    made = 0
    try:
        for arguments in mounts:
            done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
            if done.returncode != 0:
                raise Impossible(f"mount fails: {done.stderr.strip()}")
            made += 1
        yield
    finally:
        if made:
            subprocess.run(["umount", "--lazy", str(target)], check=True)


def _played(path: Path, model: ModelFiles, actor: str = "tests.faults.actor") -> Place:
    """A home in which a daemon has played and was stopped."""
    place = Place(path, model.path, actor)
    try:
        _serves(place, place.start())
        place.stop()
    except BaseException:
        place.end()
        raise
    return place


def _serves(place: Place, moment: float | None = None) -> None:
    place.serves_after(time.monotonic() if moment is None else moment)


def _silent(place: Place, seconds: float) -> bool:
    place.acknowledged.read()
    return place.acknowledged.times[-1][1] < time.monotonic() - seconds


def _told(findings: Findings) -> list[str]:
    counts = (("turns lost", findings.lost), ("members completed twice", findings.twice), ("episodes in two batches", findings.doubled))
    return [*findings.broken, *(f"{n} {what}" for what, n in counts if n)]


def _said(place: Place, words: str) -> bool:
    """Whether an event says so."""
    return bool(place.ask(f"SELECT count(*) FROM event WHERE message LIKE '%{words}%'"))


def _add_version(store: Store, model: ModelFiles) -> str:
    """A candidate whose adapter does nothing yet; gives its name."""
    name = versions.next_name(store)
    trainee = open_trainee(model, device="cpu", dtype=torch.float32, options=parse_options("grpo", {"rank": 2, "alpha": 4}))
    folder, digest = write_version(store.home, name, model, lambda folder: write_weights(folder, trainee.weights(), model))
    return versions.add_candidate(store, None, name, versions.INITIAL, digest, folder, [RIGGED], None).name


def _damage(folder: Path, damage: Damage) -> None:
    weights = folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2] ^= 1
    weights.write_bytes(data)


def _how(damage: Damage) -> str:
    return "cut in half" if damage == "truncated" else "changed in one bit"


def _shift_stamps(place: Place, seconds: float) -> None:
    """Move every time of the wall clock that the store holds."""
    with open_store(place.home) as store, store.write() as conn:
        columns = store.rows(
            """
            SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
            WHERE m.type = 'table' AND c.type = 'REAL' AND c.name GLOB '*_at'
            """
        )
        for table, column in columns:
            conn.execute(f"UPDATE {table} SET {column} = {column} + ?", (seconds,))
