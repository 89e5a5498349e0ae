"""The real journal, which can be told to die at a point: `python -m tests.faults.cluster.journal --home DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.arming import take_fault

from perdure.agent.cluster.journal.journal_server import main

if __name__ == "__main__":
    take_fault(Path(sys.argv[sys.argv.index("--home") + 1]), "journal")
    raise SystemExit(main())
