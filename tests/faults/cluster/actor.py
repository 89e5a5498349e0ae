"""The scripted actor, as slow as the players of this suite: `python -m tests.faults.cluster.actor --home DIR --config FILE`.

It leaves most of the processor to Ray, and homes stay small enough to be looked at whole after every kill.
"""

from __future__ import annotations

from functools import partial

from tests.faults.acknowledged import acknowledging
from tests.faults.actor import open_scripted
from tests.faults.cluster.witness import PAUSE_S

from perdure.agent.processes.actor import main, store_journal

if __name__ == "__main__":
    raise SystemExit(main(partial(open_scripted, pause_s=PAUSE_S), lambda store: acknowledging(store_journal(store), store)))
