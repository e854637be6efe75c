"""Exponential moving average of the weights, always in fp32 (PAPER.md, mistake 8: in bf16 it never moves)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ema:
    """Average of a model's parameters; buffers are taken as they are.

    Args:
        model: the model.
        decay: of the average; early steps use (1 + t) / (10 + t) where that is smaller.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, _ in model.named_parameters()]
        self.values = [p.detach().float().clone() for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights after step number `step` (0 for the first)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach().float() for p in model.parameters()], 1.0 - decay)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return a state dict of the model with the averaged parameters."""
        state = {k: v.detach() for k, v in model.state_dict().items()}
        state.update(zip(self.names, self.values, strict=True))
        return state

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's parameters with the average; call again to undo."""
        for value, parameter in zip(self.values, model.parameters(), strict=True):
            held = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(held)
