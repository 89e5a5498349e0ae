"""The real cluster process, whose pieces are witnessed: `python -m tests.faults.cluster.cluster_program --home DIR`."""

from __future__ import annotations

from tests.faults.cluster.witness import WitnessedPiece

from perdure.agent.cluster.cluster_program import main

if __name__ == "__main__":
    raise SystemExit(main(WitnessedPiece))
