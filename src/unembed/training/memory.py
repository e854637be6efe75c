"""Allocator settings that training on a CPU needs, and the choice of precision.

Contents: `keep_memory`, `resolve_precision`.
"""

from __future__ import annotations

import ctypes
import sys

import torch

from unembed.model.precision import supports_fast_bf16

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


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return "bf16" or "fp32".

    "auto" takes bf16 on a GPU, and on a CPU with AMX tiles or AVX512-BF16, whose products are four to eight times
    faster in it (docs/log.md).
    """
    if precision != "auto":
        return precision
    return "bf16" if supports_fast_bf16(device) else "fp32"
