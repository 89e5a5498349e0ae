"""What depends on the machine that computes: the faster precision, products of fp32 tensors, and memory that the C library keeps.

Left out: the most threads, which are the user's (`OMP_NUM_THREADS`), and which device is used, which is configured.
"""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

EXACT = 1e-6
"""Relative difference of products that are computed in fp32 in two ways."""
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""Of glibc's `malloc.h`."""


def set_up_process(dtype: torch.dtype, device: str) -> None:
    """Make this process compute fast, where `dtype` is what `faster_dtype` found; for processes that load an engine.

    If bfloat16 is faster, products of fp32 tensors are in bfloat16 too, with fp32 sums (on a GPU in TF32); else they are in full precision.
    """
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 or (device == "cpu" and exact_medium_is_faster()) else "highest")
    keep_freed_memory()


def exact_medium_is_faster(repeats: int = 5) -> bool:
    """Whether torch's "medium" precision changes only which library multiplies fp32 tensors, and that one is faster.

    It permits bfloat16, but a CPU without units for it computes the same as before, on some twice as fast. Takes about 50 ms.
    """
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(512, 1024, generator=generator), torch.randn(1024, 512, generator=generator)
    before, found = torch.get_float32_matmul_precision(), {}
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            product = x @ w
            seconds.append(time.perf_counter() - started)
        found[precision] = product, min(seconds)
    torch.set_float32_matmul_precision(before)
    (exact, exact_s), (medium, medium_s) = found["highest"], found["medium"]
    return float((medium - exact).norm() / exact.norm()) < EXACT and medium_s < 0.9 * exact_s


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the next tensor, instead of new pages from the kernel; False with other C libraries.

    The process stays as large as it once was.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, 2**30)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def free_bytes(device: torch.device) -> int:
    """Memory that a process can still take on this device: of a GPU, or of the machine, where unknown memory counts as plenty."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 2**62


def faster_dtype(device: str, repeats: int = 9) -> torch.dtype:
    """bfloat16 or float32, whichever multiplies faster on this device; bfloat16 is slower on CPUs without bfloat16 units.

    Takes about a tenth of a second. The fastest of several products counts, because other load on the machine only slows them.
    """
    seconds = {}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.ones(64, 1024, dtype=dtype, device=device)
        w = torch.ones(4096, 1024, dtype=dtype, device=device)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            float(torch.nn.functional.linear(x, w)[0, 0])  # reading a value waits for a GPU
            times.append(time.perf_counter() - started)
        seconds[dtype] = min(times)
    torch.set_float32_matmul_precision(before)
    return min(seconds, key=lambda dtype: seconds[dtype])


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Compute with this number of threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def faster_threads(step: Callable[[], None], repeats: int = 3) -> int:
    """1 or the number of threads at present, whichever makes `step` faster.

    A decoding step reads weights, which one core may do as fast as several, and has many small operations, in which threads wait for each
    other.
    """
    most = torch.get_num_threads()
    seconds = dict.fromkeys((1, most), float("inf"))
    for n in range(repeats + 1):  # the first time kernels are made
        for number in seconds:
            with threads(number):
                started = time.perf_counter()
                step()
                seconds[number] = min(seconds[number], time.perf_counter() - started)
        if n and max(seconds.values()) > 2 * min(seconds.values()):
            break
    return min(seconds, key=lambda number: seconds[number])
