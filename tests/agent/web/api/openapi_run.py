"""`make test-openapi`: schemathesis asks a real server whatever the description of its API allows, and much that it does not.

The server is a process over a home with a life in it, which the requests change as they like. Fails if an answer is a 500, has a status or
a form that the description lacks, or takes what it says it refuses. Left out: the endless stream of events, and that all requests of a
right form succeed: many name what is not there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.agent.web.api.lived_home import live_a_life
from tests.agent.web.servers import Server, serving

from perdure.memory.environments import register
from perdure.memory.store import open_store

ENVIRONMENT = "perdure:largest-number?shots=3"
"""The example of the description."""

EXAMPLES = 12
"""Random requests of each operation; those of bounds and of wrong types come first."""
SEED = 1
MOST_S = 150
"""Of one round."""
KNOWN = """
[parameters]
"path.number" = 1
"path.name" = "v1"
"path.other" = "v0"
"""
"""What the second round asks for, so that it is about things that are there."""
NOT_ASKED = "positive_data_acceptance,unsupported_method,allow_header_conformance"
"""The first: many requests of a right form name what is not there. The others: POST /jobs/learn and GET /jobs/{number} look alike to the
router, so a PUT of the one is refused with the methods of the other; `test_hostile.py` asks for the methods of paths that stand alone."""


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder, home = Path(name), Path(name) / "home"
        live_a_life(home)
        with open_store(home) as store:
            register(store, ENVIRONMENT)
        with serving(home, "[stream]\nenvironments = ['perdure:add']\n") as server:
            codes = [_asked(server, folder, "coverage,fuzzing")]
            (folder / "schemathesis.toml").write_text(KNOWN)
            codes.append(_asked(server, folder, "examples,fuzzing"))
            codes.append(0 if server.get("/api/v1/status").status == 200 else 1)
            crashes = home / "logs" / "errors.log"
            if crashes.exists():
                print(crashes.read_text()[-4000:])
                codes.append(1)
    return max(codes)


def _asked(server: Server, folder: Path, phases: str) -> int:
    url = f"http://127.0.0.1:{server.port}"
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/api/v1/openapi.json", "--url", url),
        *("--header", f"Authorization: Bearer {server.token}", "--exclude-path", "/api/v1/events"),
        *("--phases", phases, "--max-examples", str(EXAMPLES), "--seed", str(SEED), "--max-time", str(MOST_S)),
        *("--checks", "all", "--exclude-checks", NOT_ASKED, "--request-timeout", "60"),
        *("--generation-database", "none", "--continue-on-failure", "--no-color", "--warnings", "off"),
    ]
    return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
