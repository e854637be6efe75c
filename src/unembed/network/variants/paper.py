"""The network of arXiv 2602.11047 as printed: the vector's projection and the blocks of its equations 5 to 10.

Contents: `PaperConditioner`, `PaperBlock`.

The paper leaves some things open; what was chosen, with the reason:
    - "single-layer MLPs" (equations 6 and 7) are one linear map each; no activation is printed.
    - Each of a layer's two norms has a gain and a shift of its own: with one pair for both, the parameters without
      the vocabulary would be 68 million instead of the 78 million that the paper counts.
    - MLP_t reads t itself (`conditioning.TimeModulation`); the sum of equations 8 and 9 is made in the denoiser.
    - The MLP of a layer is a GELU, as in equation 5. Gains start at 1 and shifts at 0: a new layer is a plain one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.network.block import Attention, Block

PARTS = 4
"""Parts of a block's modulation: gain and shift of the norm before attention, then of the one before the MLP."""


class PaperConditioner(nn.Module):
    """The vector to gains and shifts: c = W2 GELU(W1 e + b1) + b2 (equation 5), then one linear map a norm (7).

    Args:
        dim: dimension d of the vector.
        width: model width.
        layers: number of blocks.
    """

    def __init__(self, dim: int, width: int, layers: int) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.up = nn.Linear(dim, width)
        self.down = nn.Linear(width, width)
        self.maps = nn.ModuleList([nn.Linear(width, PARTS * width) for _ in range(layers)])
        for module in self.maps:
            assert isinstance(module, nn.Linear)
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
            module.bias.data.view(PARTS, width)[::2] = 1.0

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map vectors z (B, d) to the parts of a `Condition`: modulation (B, layers, 4, width), and nothing else."""
        c = self.down(F.gelu(self.up(z)))
        modulation = torch.stack([m(c) for m in self.maps], dim=1).view(len(z), self.layers, PARTS, self.width)
        return modulation, z.new_zeros(len(z), 2, self.width), z.new_zeros(len(z), 0, self.width)


class PaperBlock(Block):
    """Attention and MLP, each added to its input behind a norm with a gain and a shift from the condition (10).

    Args:
        width: model width.
        heads: attention heads.
        mlp: hidden width of the MLP.
        dropout: dropout on both branches while training.
    """

    def __init__(self, width: int, heads: int, mlp: int, dropout: float = 0.0) -> None:
        super().__init__(width, heads, mlp, dropout)
        self.attention = Attention(width, heads, dropout, normalise=False)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        past: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the block.

        Args:
            x: (B, n, width).
            modulation: (B, 4, width): gain and shift of attention, then of the MLP.
            past: see `Attention.forward`.
            mask: see `Attention.forward`.
        """
        gain_a, shift_a, gain_m, shift_m = (part.unsqueeze(1) for part in modulation.unbind(1))
        mixed, kv = self.attention(gain_a * F.layer_norm(x, (self.width,)) + shift_a, past, mask)
        x = x + self.drop(mixed)
        hidden = F.gelu(self.up(gain_m * F.layer_norm(x, (self.width,)) + shift_m))
        return x + self.drop(self.down(hidden)), kv
