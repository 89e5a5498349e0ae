"""The stream of live tasks: every configured environment always has some queued, on train seeds that it has not had before."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.envs.seeds import train_seed
from perdure.memory.store import Store
from perdure.memory.tasks import add_tasks, stream_drawn, stream_queued


def refill(store: Store, environments: Sequence[str], *, per_environment: int, members: int, root: int, room: int | None = None) -> int:
    """Queue tasks until each environment has `per_environment` waiting, at most `room` in all; gives how many were added.

    Environments take turns, so that a batch holds a mixture. Draw i of an environment is its i-th task on this stream: after a restart
    the stream goes on where it stood.
    """
    with store.write():
        queued = stream_queued(store)
        if all(queued.get(name, 0) >= per_environment for name in environments):
            return 0  # the usual case; what follows counts every task there ever was
        had = stream_drawn(store)
        added = 0
        for level in range(per_environment):
            for name in environments:
                if queued.get(name, 0) > level or (room is not None and added >= room):
                    continue
                draw = had.get(name, 0)
                add_tasks(store, name, [train_seed(root, name, draw)], members, "stream")
                had[name] = draw + 1
                added += 1
    return added
