"""What depends on the machine that computes: the faster precision, products of fp32 tensors, and memory that the C library keeps.

Left out: the number of threads, which is the user's (`OMP_NUM_THREADS`), and which device is used, which is configured.
"""

from __future__ import annotations

import ctypes
import platform
import time

import torch

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""Of glibc's `malloc.h`."""


def set_up_process(dtype: torch.dtype) -> None:
    """Make this process compute fast, where `dtype` is what `faster_dtype` found; for processes that load an engine.

    If bfloat16 is faster, products of fp32 tensors are in bfloat16 too, with fp32 sums (on a GPU in TF32); else they are in full precision.
    """
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else "highest")
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the next tensor, instead of new pages from the kernel; False with other C libraries.

    The process stays as large as it once was.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, 2**30)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


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
