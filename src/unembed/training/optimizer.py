"""AdamW with decay on matrices only, and the learning rate over a run.

Contents: `make_optimizer`, `learning_rate`.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from unembed.training.recipe import OptimizerPart


def make_optimizer(model: nn.Module, part: OptimizerPart) -> torch.optim.AdamW:
    """AdamW; weight decay touches matrices of linear maps only (PAPER.md, mistake 8).

    Norm gains, biases, gates, positions and embeddings are not decayed.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if id(parameter) in linear else spared).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": part.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=part.lr, betas=(part.betas[0], part.betas[1]), eps=1e-8, fused=True)


def learning_rate(part: OptimizerPart, step: int, progress: float) -> float:
    """Learning rate of a step.

    Args:
        part: peak, warm-up and decay.
        step: 0 for the first.
        progress: share of the horizon that has passed, 0 to 1 (in steps, or by the clock).

    Returns:
        peak x warm-up x decay, zero at the horizon.
    """
    warm = min(1.0, (step + 1) / max(part.warmup, 1))
    progress = min(max(progress, 0.0), 1.0)
    if part.decay == "linear":
        decay = 1.0 - progress
    elif part.decay == "cosine":
        decay = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        decay = 1.0
    return part.lr * warm * decay
