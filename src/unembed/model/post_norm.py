"""A transformer block of BERT's shape, modulated by the vector. Contents: `PostNormBlock`.

BERT (arXiv 1810.04805) normalises after each branch is added. The modulation of AdaLN (2212.09748) is applied to what
comes out of the norms, and to the branches as a factor 1 + gate; all of it starts at zero, so that a new block is
exactly a BERT block. That lets a denoiser start from the layers of an encoder that is a BERT itself.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from unembed.model.block import Attention, Block, modulate


class PostNormBlock(Block):
    """Attention and MLP, each followed by a norm and a modulation.

    Args:
        width: model width.
        heads: attention heads.
        mlp: hidden width of the MLP (GELU).
        dropout: dropout on both branches while training.
    """

    def __init__(self, width: int, heads: int, mlp: int, dropout: float = 0.0) -> None:
        super().__init__(width, heads, mlp, dropout)
        self.attention = Attention(width, heads, dropout, normalise=False)
        self.norm_attention = nn.LayerNorm(width, eps=1e-12)
        self.norm_mlp = nn.LayerNorm(width, eps=1e-12)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        past: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the block; arguments and result as for `Block.forward`."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.unbind(1)
        mixed, kv = self.attention(x, past, mask)
        x = self.norm_attention(x + (1 + gate_a).unsqueeze(1) * self.drop(mixed))
        x = modulate(x, shift_a, scale_a)
        hidden = self.down(F.gelu(self.up(x)))
        x = self.norm_mlp(x + (1 + gate_m).unsqueeze(1) * self.drop(hidden))
        return modulate(x, shift_m, scale_m), kv
