"""The real learner, which can be told to die at a point: `python -m tests.faults.learner --home DIR --job N`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.arming import take_fault

from perdure.agent.processes.job import main

if __name__ == "__main__":
    take_fault(Path(sys.argv[sys.argv.index("--home") + 1]), "learner")
    raise SystemExit(main())
