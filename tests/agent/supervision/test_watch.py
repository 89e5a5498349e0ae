"""Real processes that really die: by errors, by signals, because memory runs out, or because they hang. Each has its cause."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from perdure.agent.processes.exit_codes import EXIT_CODES, Cause, cause_of_error
from perdure.agent.supervision.causes import End, Exit, cause_of, oom_kills
from perdure.agent.supervision.children import Child, end_children
from perdure.agent.supervision.watch import Watched
from perdure.envs.policy import PolicyError
from perdure.memory.errors import InputError, LeaseLost, RuntimeFailure, Unavailable
from perdure.memory.processes import process_of
from perdure.memory.store import Store, create_store

pytestmark = pytest.mark.processes

LEAVES = """
from perdure.agent.processes.exit_codes import die_of
from perdure.memory.errors import InputError, RuntimeFailure, Unavailable
class AcceleratorError(RuntimeError):
    pass
try:
    {body}
except Exception as error:
    die_of(error)
"""
PATIENCE_S = 60.0
WANTS_MEMORY = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); bytearray(2**31)"
BREAKS_GPU = "raise AcceleratorError('CUDA error: an illegal memory access was encountered\\n\\nCompile with TORCH_USE_CUDA_DSA')"
BEATS = """
import os, sys, time
from pathlib import Path
from perdure.agent.processes.pulse import Pulse
from perdure.memory.store import open_store
def work():
    {body}
with open_store(Path(sys.argv[1])) as store:
    Pulse(store, "a").say("playing", "something")
    work()
"""
DEADLOCK = "import ctypes; lock, lib = ctypes.create_string_buffer(64), ctypes.PyDLL(None); [lib.pthread_mutex_lock(lock) for _ in 'ab']"
"""In C, holding Python's global lock: no Python code of this process runs any more, no signal handler either."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with create_store(tmp_path / "home") as store:
        yield store


@pytest.fixture
def spawn(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watched]]:
    """Start a module of the given text under watch."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))

    def start(text: str, hang_s: float = 60.0) -> Watched:
        (tmp_path / "module_under_watch.py").write_text(text)
        started.append(Child("a", "module_under_watch", [str(store.home)], store.home))
        return Watched(store, started[-1], hang_s)

    started: list[Child] = []
    yield start
    end_children(started, 0.0, hurry=lambda: True)


def until_it_is_stopped(watched: Watched, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while ") T " not in Path(f"/proc/{watched.child.pid}/stat").read_text():
        assert time.monotonic() < deadline, "it was not stopped"
        time.sleep(0.02)


def ended(watched: Watched, patience_s: float = PATIENCE_S) -> End:
    deadline = time.monotonic() + patience_s
    while (found := watched.poll()) is None:
        assert time.monotonic() < deadline, "it did not end"
        time.sleep(0.02)
    return found


def until_it_speaks(store: Store, watched: Watched) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while watched.report() is None:
        assert watched.poll() is None, "it ended"
        assert time.monotonic() < deadline, "it said nothing"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("text", "cause", "told"),
    [
        ("raise ValueError('boom')", "crashed", "it ended with exit code 1: ValueError: boom"),
        (LEAVES.format(body="raise ValueError('boom')"), "crashed", "it ended with exit code 1: ValueError: boom"),
        (LEAVES.format(body="raise InputError('no such model')"), "refused", "it ended with exit code 2: no such model"),
        (LEAVES.format(body="raise RuntimeFailure('damaged')"), "failed", "it ended with exit code 3: damaged"),
        (LEAVES.format(body="raise Unavailable('the disk is full')"), "unavailable", "it ended with exit code 4: the disk is full"),
        (LEAVES.format(body=WANTS_MEMORY), "out of memory", "it ended with exit code 5: MemoryError"),
        (LEAVES.format(body=BREAKS_GPU), "broken GPU", "it ended with exit code 6: AcceleratorError: CUDA error: an illegal memory access"),
        ("import faulthandler\ndef f():\n    faulthandler._sigsegv()\nf()", "crashed", "it was ended by SIGSEGV: Fatal Python error: Segm"),
        ("import os\nos.kill(os.getpid(), 9)", "killed", "it was ended by SIGKILL"),
        ("import os\nos.kill(os.getpid(), 15)", "killed", "it was ended by SIGTERM"),
        ("", "stopped", "it ended with exit code 0"),
    ],
)
def test_each_death_has_its_cause(spawn: Callable[..., Watched], text: str, cause: Cause, told: str) -> None:
    end = ended(spawn(text))
    assert end.cause == cause
    assert str(end).startswith(f"{cause}: {told}")


def test_a_crash_in_c_tells_where_python_stood(spawn: Callable[..., Watched]) -> None:
    end = ended(spawn("import faulthandler\ndef guilty():\n    faulthandler._sigsegv()\nguilty()"))
    assert end.exit.last_line.endswith('module_under_watch.py", line 3 in guilty)')


def test_errors_of_torch_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert cause_of_error(caught.value) == "out of memory"
    assert cause_of_error(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")) == "out of memory"
    assert cause_of_error(torch.AcceleratorError("unspecified launch failure")) == "broken GPU"
    assert cause_of_error(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm")) == "broken GPU"
    assert cause_of_error(RuntimeError("size mismatch")) == "crashed"


def test_our_own_errors_are_known() -> None:
    assert cause_of_error(InputError("x")) == "refused"
    assert cause_of_error(LeaseLost("x")) == cause_of_error(RuntimeFailure("x")) == "failed"
    assert cause_of_error(Unavailable("x")) == cause_of_error(OSError(errno.ENOSPC, "x")) == "unavailable"
    assert cause_of_error(PolicyError("x")) == cause_of_error(OSError(errno.ENOENT, "x")) == "crashed"


def test_causes_follow_from_exits_alone() -> None:
    def cause(code: int, *, hung: bool = False, oom_killed: bool = False) -> Cause:
        return cause_of(Exit(code=code, last_line=""), hung=hung, oom_killed=oom_killed)

    assert {name: cause(code) for name, code in EXIT_CODES.items()} == {name: name for name in EXIT_CODES}
    assert cause(77) == "crashed"
    assert cause(-signal.SIGKILL) == "killed"
    assert cause(-signal.SIGKILL, oom_killed=True) == "out of memory"
    assert cause(-signal.SIGSEGV, oom_killed=True) == cause(-signal.SIGABRT) == "crashed"
    assert cause(-signal.SIGABRT, hung=True) == cause(-signal.SIGKILL, hung=True, oom_killed=True) == "hung"
    assert str(Exit(code=-40, last_line="")) == "was ended by signal 40"


def test_a_process_that_the_kernel_ends_for_want_of_memory_is_told_from_one_that_was_killed(
    spawn: Callable[..., Watched], memory_limit: Path
) -> None:
    before = oom_kills()
    join = f"open({str(memory_limit / 'cgroup.procs')!r}, 'w').write('0')"
    end = ended(spawn(f"import sys\n{join}\nprint('greedy', flush=True)\nx = bytearray(2**28)\nx[::4096] = b'x' * len(x[::4096])"))
    assert end.cause == "out of memory"
    assert str(end) == "out of memory: it was ended by SIGKILL: greedy"
    assert oom_kills() > before


@pytest.fixture
def memory_limit() -> Iterator[Path]:
    """A control group that holds 64 MiB."""
    for root, limit in ((Path("/sys/fs/cgroup"), "memory.max"), (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")):
        group = root / f"perdure-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / limit).exists():
            break
        group.rmdir()
    else:
        pytest.skip("no control group can be made here")
    try:
        (group / limit).write_text(str(64 * 2**20))
        yield group
    finally:
        group.rmdir()


def test_a_process_that_hangs_in_c_is_ended_and_tells_where(spawn: Callable[..., Watched], store: Store) -> None:
    watched = spawn(BEATS.format(body=DEADLOCK), hang_s=3.0)
    until_it_speaks(store, watched)
    end = ended(watched)
    assert end.cause == "hung"
    assert end.exit.code == -signal.SIGABRT
    assert "in work)" in end.exit.last_line or "in <listcomp>)" in end.exit.last_line
    assert watched.lived_s < 30


def test_a_process_that_does_not_even_run_is_ended(spawn: Callable[..., Watched], store: Store) -> None:
    watched = spawn(BEATS.format(body="os.kill(os.getpid(), 19)"), hang_s=1.0)
    until_it_is_stopped(watched)  # one that still imports, on a machine with other work, would heed the first signal
    end = ended(watched)
    assert end.cause == "hung"
    assert end.exit.code == -signal.SIGKILL


def test_a_process_that_goes_on_is_left_alone_whatever_the_wall_clock_says(spawn: Callable[..., Watched], store: Store) -> None:
    body = "pulse = Pulse(store, 'a')\n    while True:\n        pulse._written_s = -1e9; pulse.go_on(); time.sleep(0.1)"
    watched = spawn(BEATS.format(body=body), hang_s=1.5)
    until_it_speaks(store, watched)
    with store.write() as conn:
        conn.execute("UPDATE process SET beat_at = beat_at - 86400")
    until = time.monotonic() + 3.5
    while time.monotonic() < until:
        assert watched.poll() is None
        time.sleep(0.05)
    assert watched.lived_s > 2.5
    watched.ask_to_end(5.0)
    assert ended(watched).cause == "killed"


def test_a_deaf_process_that_is_asked_to_end_is_ended_after_its_grace(spawn: Callable[..., Watched], store: Store) -> None:
    watched = spawn(BEATS.format(body="import signal; signal.signal(15, signal.SIG_IGN); time.sleep(60)"))
    until_it_speaks(store, watched)
    time.sleep(0.2)
    began = time.monotonic()
    watched.ask_to_end(0.5)
    watched.ask_to_end(60.0)
    assert ended(watched).exit.code == -signal.SIGKILL
    assert 0.4 < time.monotonic() - began < 30


def test_what_another_process_of_its_name_said_is_not_its_own(spawn: Callable[..., Watched], store: Store) -> None:
    first = spawn(BEATS.format(body="time.sleep(60)"))
    until_it_speaks(store, first)
    assert process_of(store, "a", first.child.pid + 1) is None
    first.ask_to_end(5.0)
    ended(first)
    assert spawn("import time\ntime.sleep(60)").report() is None
