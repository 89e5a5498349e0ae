"""How what players elsewhere were told is written down beside the home, and how a fault comes into one of them.

Their folder is in the variable `FAULTS_AT`, which a daemon's processes and Ray's inherit on one machine, and by which they are found.
"""

from __future__ import annotations

from perdure.agent.cluster.on_ray.piece_actor import PieceActor

VARIABLE = "FAULTS_AT"
PAUSE_S = 0.1
"""What a round of generation takes."""


class WitnessedPiece(PieceActor):
    """The actor of a piece, whose program is that of the suite."""

    program = "tests.faults.cluster.piece_program"
