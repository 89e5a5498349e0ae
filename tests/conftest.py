"""What holds for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

# Before torch is loaded, here and in every process that a test starts. Products of 32 by 32 are slower on several threads, and much slower
# if other programs keep the cores busy: the other half of the tests does.
os.environ["OMP_NUM_THREADS"] = "1"

# The home that the caller's shell names is not for the tests, nor for the processes that they start.
os.environ.pop("PERDURE_HOME", None)

STARTS = frozenset({"subprocess.Popen", "os.posix_spawn", "os.fork"})
started: list[str] = []


def _hear(event: str, args: tuple[object, ...]) -> None:
    if event in STARTS:
        started.append(str(args[0]) if args else event)


sys.addaudithook(_hear)


@pytest.fixture(autouse=True)
def marked_if_it_starts_a_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """`make check` leaves the tests that are marked `processes` or `vllm` out: each process takes seconds on a busy machine."""
    started.clear()
    yield
    if started and not any(request.node.get_closest_marker(mark) for mark in ("processes", "vllm")):
        pytest.fail(f"it starts {started[0]} and is not marked: pytest.mark.processes")


@pytest.fixture(scope="session", autouse=True)
def migrated_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A new store goes through all migrations, in a tenth of a second, and the tests make some two thousand: one does, the rest are copies.

    Only in this process: a store that a process of a test makes is migrated, and so is one with other migrations, tables or pages.
    """
    from perdure.memory import store as module

    migrate, home = module._migrate, tmp_path_factory.mktemp("migrated")
    with module.create_store(home) as first:
        [[page_size]] = first.rows("PRAGMA page_size")

    def copy(store: module.Store, migrations: Sequence[str]) -> None:
        is_new = not store.rows("SELECT 1 FROM sqlite_master") and store.rows("PRAGMA page_size")[0][0] == page_size
        if is_new and migrations is module.MIGRATIONS:
            with closing(module.sqlite3.connect(str(home / module.FILE_NAME))) as first:
                first.backup(store.conn)
        else:
            migrate(store, migrations)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_migrate", copy)
        yield


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """A process in which an engine was opened may multiply fp32 tensors in bfloat16; the next test must not."""
    yield
    if "torch" in sys.modules:
        import torch

        torch.set_float32_matmul_precision("highest")
