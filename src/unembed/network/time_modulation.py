"""Time as an input: what it adds to the modulation of each block, and how it is read off a canvas.

Contents: `TimeModulation`, `time_of`.

A denoiser needs no time, because the share of masks tells it (arXiv 2406.03736, section 3); the paper of 2602.11047
feeds it (equation 6). Training feeds the t that was drawn. Decoding feeds the t at which the schedule of training has
as many masks as the canvas shows: for the linear schedule the share of masks itself, which is what the paper's
sequential strategy takes, for another schedule its inverse, so that both sides mean the same by t.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unembed.diffusion.schedule import Schedule


class TimeModulation(nn.Module):
    """t to modulation, one linear map a block that starts at zero (2602.11047, equation 6).

    Args:
        layers: number of blocks.
        parts: parts of a block's modulation.
        width: model width.
    """

    def __init__(self, layers: int, parts: int, width: int) -> None:
        super().__init__()
        self.shape = (layers, parts, width)
        self.map = nn.Linear(1, layers * parts * width)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, t: Tensor) -> Tensor:
        """Map times t (B,) in [0, 1] to what is added to the modulation, (B, layers, parts, width)."""
        with torch.autocast(t.device.type, enabled=False):
            weight, bias = self.map.weight.float(), self.map.bias.float()  # bf16 in a network that only decodes
            return F.linear(t.float().unsqueeze(1), weight, bias).view(len(t), *self.shape)


def time_of(masked: Tensor, lengths: Tensor | None, schedule: Schedule) -> Tensor:
    """The time at which a schedule is expected to have as many masks as are seen.

    Args:
        masked: (B, n) bool.
        lengths: (B,) positions of each canvas, or None where all have n; what follows does not count.
        schedule: of training.

    Returns:
        (B,) float32 in [0, 1].
    """
    n = masked.shape[1]
    if lengths is None:
        share = masked.float().mean(1)
    else:
        inside = torch.arange(n, device=masked.device) < lengths.unsqueeze(1)
        share = (masked & inside).sum(1) / lengths.clamp_min(1)
    return schedule.time(1.0 - share)
