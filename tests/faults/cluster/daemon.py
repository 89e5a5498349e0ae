"""A daemon with a cluster and programs of the suite's choice: `python -m tests.faults.cluster.daemon HOME CONFIG ACTOR`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.faults.daemon import main

from perdure.agent.supervision.supervisor import Programs

if __name__ == "__main__":
    programs = Programs(
        actor=sys.argv[3],
        learner="tests.faults.learner",
        journal="tests.faults.cluster.journal",
        cluster="tests.faults.cluster.cluster_program",
    )
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2]), programs))
