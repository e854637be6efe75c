"""Rows of numbers as int8 codes with one scale per row. Contents: `TOP`, `quantise_rows`."""

from __future__ import annotations

import torch
from torch import Tensor

TOP = 127
"""Largest int8 code."""


def _scale_of(largest: Tensor, top: int) -> Tensor:
    """largest / top with 16 significant bits: codes up to 127 times it are exact in float32."""
    scale = (largest / top).clamp(min=1e-12).float().contiguous()
    return ((scale.view(torch.int32) + 0x80) & ~0xFF).view(torch.float32)


def quantise_rows(rows: Tensor, top: int = TOP) -> tuple[Tensor, Tensor]:
    """Round rows to whole multiples of one scale per row, the row's largest number over `top`.

    Args:
        rows: (N, d) numbers.
        top: largest code, 127 for int8 and 31 for 6 bits.

    Returns:
        Codes (N, d) int8 within -top..top and scales (N,) float32: row = scale * code, wrong by half a scale at most.
    """
    scale = _scale_of(rows.abs().amax(dim=1), top)
    codes = (rows.float() / scale[:, None]).round_().clamp_(-top, top).to(torch.int8)
    return codes, scale
