"""Allocator settings that training on a CPU needs, what a lack of memory looks like, and the choice of precision.

Contents: `keep_memory`, `limited_memory`, `out_of_memory`, `resolve_precision`.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from unembed.network.denoiser import supports_fast_bf16

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> bool:
    """Tell glibc to keep freed memory, so that large tensors do not fault their pages in anew at every step.

    Halves the time of elementwise work on 35 MB tensors here (docs/log.md). Returns False where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
    except (OSError, AttributeError):
        return False


@contextlib.contextmanager
def limited_memory() -> Iterator[int]:
    """Within it an allocation fails that a CPU has no memory for, so that a run can continue with smaller batches.

    Linux grants more memory than there is, and kills the process when it is used. The limit is what the process holds
    and nine tenths of what is free at the start; a lower one that is set already stays. There is none beside a GPU,
    whose driver reserves addresses as it likes.

    Yields:
        The limit in bytes, 0 where there is none.
    """
    free, held = _kilobytes("/proc/meminfo", "MemAvailable"), _kilobytes("/proc/self/status", "VmData")
    if not free or not held or torch.cuda.is_available():
        yield 0
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = (held + free * 9 // 10) * 1024
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _kilobytes(path: str, key: str) -> int:
    """A figure of a file of the kernel, 0 where there is none."""
    try:
        found = re.search(rf"^{key}:\s*(\d+) kB", Path(path).read_text("ascii", "replace"), re.M)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return "bf16" or "fp32".

    "auto" takes bf16 on a GPU, and on a CPU with AMX tiles or AVX512-BF16, whose products are four to eight times
    faster in it (docs/log.md).
    """
    if precision != "auto":
        return precision
    return "bf16" if supports_fast_bf16(device) else "fp32"


def out_of_memory(error: Exception) -> bool:
    """Whether an exception says that memory ran out, on a GPU or (a plain RuntimeError) on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
