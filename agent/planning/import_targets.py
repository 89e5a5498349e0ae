"""Which environments are the targets of a job on imported traces that names none.

The traces say what is learned; a target says where the gate asks for a gain, and from which return an episode without `success` is one.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.memory.store import Store
from perdure.memory.trajectories.traces import IMPORT


def import_targets(store: Store, stream: Sequence[str], traces: str) -> list[str]:
    """The environments of the stream that an import has episodes of, else the first one; none if `traces` names no import."""
    if not traces.startswith(IMPORT):
        return []
    sql = "SELECT DISTINCT f.environment FROM foreign_episode f JOIN import_batch b ON b.id = f.batch WHERE b.label = ?"
    named = {row["environment"] for row in store.rows(sql, (traces.removeprefix(IMPORT),))}
    return [name for name in stream if name in named] or list(stream[:1])
