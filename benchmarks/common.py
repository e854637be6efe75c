"""What the benchmarks share: the machine's matrix-multiply rate, the operations of a pass, one JSON line.

Contents: `machine`, `matmul_rates`, `Counter` (operations by formula), `MatrixProducts` (operations
that were made), `resident_bytes`, `emit`.

The share that a benchmark prints is (operations that the arithmetic says are needed) / seconds / (rate of a plain
matrix product, measured in the same process, with the same number of threads and the same dtype).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from unembed.machine import describe, matmul_rate

PRECISIONS = ("fp32", "bf16")


def machine() -> dict[str, Any]:
    """What the numbers were measured on, the load of the last minute included."""
    return {**describe(), "load": os.getloadavg()[0]}


def matmul_rates(device: str = "cpu", seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s of a plain matrix product in fp32 and in bf16, each measured now for so many seconds."""
    side = 2048 if device == "cpu" and seconds >= 0.5 else 0
    return {name: round(matmul_rate(name, device, seconds, side), 1) for name in PRECISIONS}


class Counter:
    """Counts the operations that a pass takes by formula, 2 A n and the head, while a denoiser runs.

    A pass of A active parameters over n tokens costs 2 A n, and the head 2 x rows x columns x width ("Arithmetic").
    A is the blocks' parameters; n leaves padding out, so padding shows as a smaller share. Modulation, prefix tokens
    and attention scores are not counted.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser: Any = denoiser
        self.active = self.denoiser.parameter_counts()["blocks"]
        self.positions = 0
        self.padded = 0
        self.head_cells = 0
        self.passes = 0
        self.head_width = self.denoiser.embedding.weight.shape[1]

    @property
    def forward_operations(self) -> float:
        """Operations of the forward passes so far; training costs three times as many."""
        return 2.0 * self.active * self.positions + 2.0 * self.head_cells * self.head_width

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counter]:
        """Count inside the block."""
        denoiser = self.denoiser
        hidden, step = denoiser.hidden, denoiser.next_logits

        def count_hidden(ids: Any, states: Any, condition: Any, lengths: Any = None, *rest: Any, **more: Any) -> Any:
            self.positions += ids.numel() if lengths is None else int(lengths.sum())
            self.padded += ids.numel()
            self.passes += 1
            return hidden(ids, states, condition, lengths, *rest, **more)

        def count_step(last: Any, state: Any) -> Any:
            self.positions += len(last)
            self.padded += len(last)
            self.passes += 1
            return step(last, state)

        def count_head(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.head_cells += output.shape[0] * output.shape[-1]

        denoiser.hidden, denoiser.next_logits = count_hidden, count_step
        hook = denoiser.head.register_forward_hook(count_head)
        try:
            yield self
        finally:
            hook.remove()
            del denoiser.hidden, denoiser.next_logits


class MatrixProducts(TorchDispatchMode):
    """Counts the floating-point operations of every matrix product made inside the block, gradients included.

    torch's own `FlopCounterMode` counts the same, but follows modules by hooks that inference mode does not allow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, then do it."""
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry:
            with self:  # what is made of products may come as one operation
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if packet in flop_registry:
            self.operations += flop_registry[packet](*args, **kwargs, out_val=out)
        return out


def resident_bytes() -> int:
    """Resident memory of this process now."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak_bytes()


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def emit(record: dict[str, Any]) -> None:
    """Print one JSON line on stdout."""
    print(json.dumps(record), flush=True)
