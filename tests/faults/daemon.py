"""A daemon with programs of the suite's choice: `python -m tests.faults.daemon HOME CONFIG ACTOR`. The supervisor is the real one."""

from __future__ import annotations

import sys
from pathlib import Path

from perdure.agent.config_file import load_config
from perdure.agent.supervision.limits import Limits
from perdure.agent.supervision.supervisor import Programs, supervising
from perdure.memory.errors import InputError, PerdureError


def main(home: Path, config: Path, programs: Programs) -> int:
    try:
        with supervising(home, load_config(config), Limits(), programs) as supervisor:
            return supervisor.run().code
    except PerdureError as error:
        print(f"perdure: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 3


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2]), Programs(actor=sys.argv[3], learner="tests.faults.learner")))
