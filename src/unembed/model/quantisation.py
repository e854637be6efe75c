"""int8 storage of matrices by row.

What is here:
    quantise_rows   float rows -> int8 rows and one scale a row
"""

from __future__ import annotations

import torch
from torch import Tensor


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Store rows (N, d) as codes (N, d) int8 and scale (N,) float32, row = scale * code; error at most scale / 2."""
    scale = (rows.abs().amax(dim=1) / 127.0).clamp(min=1e-12).float()
    codes = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return codes, scale
