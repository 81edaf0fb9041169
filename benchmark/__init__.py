"""Runner, data, training, evaluation and metrics of the benchmark; each verb is a module: ``python -m benchmark.run``."""

import ctypes
import os
import platform

# Before torch loads OpenMP: idle threads sleep instead of spinning. Alone on a machine this costs nothing measurable; beside
# any other process the spinning makes small operations slower by a factor of up to a hundred.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _keep_freed_memory() -> None:
    """Let the allocator keep what a training step frees for the next step, where the C library is glibc.

    By default glibc maps every large tensor afresh, and touching new pages takes about a tenth of a step on a CPU. Freed
    memory goes back to the system when the process ends; images of very different sizes may leave more of it unused.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


_keep_freed_memory()
