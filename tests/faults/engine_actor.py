"""The real actor with its real engine, whose acknowledgements are written down: `python -m tests.faults.engine_actor --home DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.acknowledged import acknowledging
from tests.faults.arming import take_fault

from perdure.agent.processes.actor import main, open_served, store_journal

if __name__ == "__main__":
    take_fault(Path(sys.argv[sys.argv.index("--home") + 1]), "actor")
    raise SystemExit(main(open_served, lambda store: acknowledging(store_journal(store), store)))
