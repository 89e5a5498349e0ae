"""A real vLLM server in a home, kept by the real process that keeps one. `make test-vllm-cpu` and `make test-gpu` say which interpreter."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.agent.children import Child, stop
from perdure.agent.config_file import load_config
from perdure.learners.engines.vllm_client import read_server
from perdure.memory.store import create_store

PYTHON_VARIABLE = "PERDURE_TEST_VLLM_PYTHON"
START_S = 500


def vllm_python() -> str:
    """The interpreter that has vLLM."""
    found = os.environ.get(PYTHON_VARIABLE)
    assert found, f"set {PYTHON_VARIABLE} to an interpreter that has vLLM, as `make test-vllm-cpu` and `make test-gpu` do"
    return found


def write_config(path: Path, *, model: str, device: str = "cpu", dtype: str = "float32", more: str = "") -> Path:
    """A configuration with vLLM as its engine. On a CPU nothing is compiled."""
    lines = [
        f"model = {model!r}",
        f"device = {device!r}",
        "engine = 'vllm'",
        more,
        "[vllm]",
        f"python = {vllm_python()!r}",
        f"dtype = {dtype!r}",
        f"eager = {'true' if device == 'cpu' else 'false'}",
        "context_tokens = 1024",
        f"start_timeout_s = {START_S}",
        "answer_timeout_s = 120",
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def vllm_server(home: Path, config: Path) -> Iterator[Child]:
    """A server that answers, until the block ends."""
    create_store(home).close()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    assert load_config(config).config.engine == "vllm"
    child = Child("vllm", "perdure.agent.vllm_server", ["--home", str(home), "--config", str(config)], home)
    try:
        deadline = time.monotonic() + START_S
        while read_server(home) is None:
            ended = child.poll()
            assert ended is None, f"the server {ended}"
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.1)
        yield child
    finally:
        stop([child], 6.0, hurry=lambda: False)
