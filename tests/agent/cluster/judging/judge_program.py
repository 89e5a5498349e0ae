"""A player that plays errands of a home and nothing else: `python -m tests.agent.cluster.judging.judge_program HOME NAME TTL_S`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tests.agent.cluster.judging.same_answers import means

from perdure.agent.cluster.judging.errand_play import judge_once
from perdure.agent.cluster.judging.store_desk import StoreDesk
from perdure.memory.leases import BootClock
from perdure.memory.store import open_store

POLL_S = 0.05


def main() -> None:
    home, name, ttl_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    parent = os.getppid()
    with open_store(home) as store:
        desk = StoreDesk(store=store, owner=f"{name}:{os.getpid()}", clock=BootClock(), ttl_s=ttl_s)
        plays_with = means(store)
        while os.getppid() == parent:
            if not judge_once(desk, plays_with, 4):
                time.sleep(POLL_S)


if __name__ == "__main__":
    main()
