"""Upkeep of a large store: how long a check, a backup and a prune take, and how large they are. `large_store.py` makes the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from perdure.agent.bench.measure import timed
from perdure.memory.json_value import Document
from perdure.memory.leases import BootClock
from perdure.memory.store import FILE_NAME, create_store
from perdure.memory.upkeep.backup import backup
from perdure.memory.upkeep.integrity import check
from perdure.memory.upkeep.prune import Keep, prune

KEPT = 0.9
"""Share of the episodes that pruning leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpkeepBench:
    """The measurements of a check, a backup and a prune."""

    check_s: float
    """Of a check without the texts."""
    backup_s: float
    """With the check of the copy."""
    backup_bytes: int
    prune_s: float
    pruned_turns: int
    archive_bytes: int
    freed_bytes: int
    """How much smaller the store's file became."""

    def as_json(self) -> Document:
        return asdict(self)


def bench_upkeep(home: Path, episodes: int, *, say: Callable[[str], None]) -> UpkeepBench:
    """Check the store in `home`, back it up beside it, and prune its oldest episodes. `episodes` is how many it has."""
    with create_store(home) as store:
        say("checking it")
        _, check_s = timed(lambda: check(store, BootClock(), on_two_cores=True))
        say("backing it up")
        made, backup_s = timed(lambda: backup(store, home.parent / "backup.db"))
        say("pruning it")
        before = (home / FILE_NAME).stat().st_size
        pruned, prune_s = timed(lambda: prune(store, Keep(episodes=round(KEPT * episodes), live=0), say))
    return UpkeepBench(
        check_s=check_s,
        backup_s=backup_s,
        backup_bytes=made.size_bytes,
        prune_s=prune_s,
        pruned_turns=pruned.turns,
        archive_bytes=sum(path.stat().st_size for path in pruned.archives),
        freed_bytes=before - (home / FILE_NAME).stat().st_size,
    )
