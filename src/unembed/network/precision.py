"""Matrices in bf16 for decoding. Contents: `lower_precision`, `autocast`, `supports_fast_bf16`.

A processor with AMX tiles or AVX512-BF16, and a GPU, multiplies bf16 matrices four to eight times faster than fp32 ones
(docs/log.md). Norms, positions, biases of the head, the whitening, the length head and the closed forms stay in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from unembed.errors import InputError
from unembed.network.base import Network

PRECISIONS = ("fp32", "bf16", "auto")


def supports_fast_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are faster than in fp32 there."""
    if device.type != "cpu":
        return device.type == "cuda"
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(supported is not None and supported() for supported in asked)


def lower_precision(denoiser: Network, precision: str) -> str:
    """Turn the matrices of a denoiser that only decodes from now on into bf16, where asked for.

    Args:
        denoiser: changed in place.
        precision: "fp32", "bf16", or "auto" (bf16 where it is fast).

    Returns:
        "fp32" or "bf16".

    Raises:
        InputError: another precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"There is no precision {precision!r}.", f"Use one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        precision = "bf16" if supports_fast_bf16(denoiser.banned.device) else "fp32"
    if precision == "bf16":
        kept = {id(module) for module in denoiser.length.modules()}
        for module in denoiser.modules():
            if isinstance(module, nn.Linear) and id(module) not in kept:
                module.to(torch.bfloat16)
        denoiser.embedding.to(torch.bfloat16)
    return precision


def autocast(denoiser: Network) -> Any:
    """The context in which a denoiser decodes: bf16 products where its matrices were lowered, else nothing changes."""
    lowered = denoiser.embedding.weight.dtype == torch.bfloat16
    return torch.autocast(denoiser.banned.device.type, dtype=torch.bfloat16, enabled=lowered)
