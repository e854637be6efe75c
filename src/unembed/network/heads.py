"""What comes out of the blocks: token logits (tied embedding) and the learnt length.

Contents: `TokenHead`, `LengthNetwork`, `prior_gate`, `row_parts` and `LOGIT_BYTES`.

Logits are by far the largest tensors of a decode, and each step over them (bias, priors, softmax) reads and writes them
whole: on a CPU a part of 8 MiB goes through all steps several times faster than all rows at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOGIT_BYTES = {"cpu": 8 * 2**20, "cuda": 1024 * 2**20}


class TokenHead(nn.Module):
    """Hidden rows to logits over the vocabulary; the embedding is tied.

    Args:
        width: model width.
        embedding_dim: width of the token embedding.
        vocab_size: size of the vocabulary V.
    """

    def __init__(self, width: int, embedding_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, embedding_dim)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """Score all tokens.

        Args:
            hidden: (R, width) rows after the last norm.
            embedding: (V, embedding_dim), the input embedding.

        Returns:
            (R, V) float32.
        """
        if embedding.dtype == torch.float32 and not torch.is_autocast_enabled(hidden.device.type):
            return F.linear(self.project(hidden), embedding, self.bias)
        return F.linear(self.project(hidden), embedding).float().add_(self.bias)  # biases are too large for bf16


class LengthNetwork(nn.Module):
    """p(n | vector) for n = 1..max_length by a two-layer network on the whitened vector.

    Args:
        dim: dimension of the vector.
        hidden: hidden width.
        max_length: greatest length in tokens.
    """

    def __init__(self, dim: int, hidden: int, max_length: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, max_length)

    def forward(self, z: Tensor) -> Tensor:
        """Return log p(n), (B, max_length); column 0 is n = 1."""
        with torch.autocast(z.device.type, enabled=False):
            return F.log_softmax(self.down(F.gelu(self.up(z), approximate="tanh")), dim=-1)


def prior_gate(width: int) -> nn.Linear:
    """How much the token prior counts at a row: the same everywhere at first, then learnt from the row's hidden state.

    It starts where a single number ended after eight minutes of training (docs/log.md).
    """
    gate = nn.Linear(width, 1)
    nn.init.zeros_(gate.weight)
    nn.init.constant_(gate.bias, 0.25)
    return gate


def row_parts(rows: int, columns: int, device: torch.device) -> Iterator[slice]:
    """Cut `rows` rows of `columns` float32 numbers into parts of at most `LOGIT_BYTES`."""
    most = max(1, LOGIT_BYTES.get(device.type, LOGIT_BYTES["cpu"]) // (4 * columns))
    return (slice(start, min(start + most, rows)) for start in range(0, rows, most))
