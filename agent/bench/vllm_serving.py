"""A vLLM server for a benchmark: for a home that has a store and no daemon, while a block lasts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.agent.processes.process_names import VLLM
from perdure.agent.processes.vllm.vllm_server import GRACE_S
from perdure.agent.supervision.children import Child, end_children
from perdure.learners.engines.vllm_client import read_server
from perdure.memory.errors import RuntimeFailure

POLL_S = 0.25


@contextmanager
def serving(home: Path, config_path: Path | None, limit_s: float, model: str | None = None) -> Iterator[Child]:
    """Serve `model`, or else the configured one, until the block ends. Raises `RuntimeFailure` if the server does not start."""
    arguments = ["--home", str(home), *(["--config", str(config_path)] if config_path else []), *(["--model", model] if model else [])]
    child = Child(VLLM, "perdure.agent.processes.vllm.vllm_server", arguments, home)
    try:
        deadline = time.monotonic() + limit_s
        while read_server(home) is None:
            ended = child.poll()
            if ended is not None:
                raise RuntimeFailure(f"the process of the vLLM server {ended}")
            if time.monotonic() > deadline:
                raise RuntimeFailure(f"the vLLM server did not come up in {limit_s:g} s")
            time.sleep(POLL_S)
        yield child
    finally:
        end_children([child], GRACE_S + 1, hurry=lambda: False)
