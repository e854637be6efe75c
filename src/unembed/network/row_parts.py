"""Rows of logits in parts that stay in the cache. Contents: `LOGIT_BYTES`, `row_parts`.

Logits are by far the largest tensors of a decode, and each step over them (bias, priors, softmax) reads and writes them
whole: on a CPU a part of 8 MiB goes through all steps several times faster than all rows at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

LOGIT_BYTES = {"cpu": 8 * 2**20, "cuda": 1024 * 2**20}


def row_parts(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Cut `rows` rows of `columns` float32 numbers into parts of at most `LOGIT_BYTES`."""
    most = max(1, LOGIT_BYTES.get(device.type, LOGIT_BYTES["cpu"]) // (4 * columns))
    return (slice(start, min(start + most, rows)) for start in range(0, rows, most))
