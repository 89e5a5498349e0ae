"""A real vLLM server in a home, kept by the real process that keeps one. `make test-vllm-cpu` and `make test-gpu` say which interpreter."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.agent.supervision.children import end_children
from perdure.agent.supervision.keepers import GRACE_S, StandingKeeper
from perdure.learners.engines.vllm_client import wait_for_server
from perdure.memory.store import create_store, open_store
from perdure.memory.versions import add_initial

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
def vllm_server(home: Path, config: Path) -> Iterator[None]:
    """A server that answers, started again when it dies, until the block ends."""
    with create_store(home) as store:
        add_initial(store, "the base", "hash of the base")  # a home with folders of versions and no row of one counts as damaged
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    ended = threading.Event()
    keeping = threading.Thread(target=_keep, args=(home, config, ended))
    keeping.start()
    try:
        wait_for_server(home, START_S).close()
        yield
    finally:
        ended.set()
        keeping.join()


def _keep(home: Path, config: Path, ended: threading.Event) -> None:
    with open_store(home) as store:
        arguments = ["--home", str(home), "--config", str(config)]
        keeper = StandingKeeper(store, "vllm", "perdure.agent.processes.vllm.vllm_server", arguments, hang_s=START_S, tries=99)
        while not ended.wait(0.1):
            keeper.tick(wanted=True)
        if keeper.watched is not None:
            end_children([keeper.watched.child], GRACE_S, hurry=lambda: False)
