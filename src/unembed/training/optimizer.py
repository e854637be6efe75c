"""AdamW with decay on matrices only, Muon for the blocks' matrices where asked, and the learning rate over a run.

Contents: `make_optimizer`, `Together`, `learning_rate`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from unembed.model.block import Block
from unembed.training.recipe import OptimizerPart


class Together(torch.optim.Optimizer):
    """Several optimizers of disjoint parameters as one: one list of groups, one state.

    Args:
        parts: the optimizers.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        self.defaults: dict[str, Any] = {}
        self.param_groups = [group for part in parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Step every part."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of all parameters, numbered through in the order of the parts."""
        state: dict[int, Any] = {}
        first = 0
        for part in self.parts:
            own = part.state_dict()
            state |= {first + index: values for index, values in own["state"].items()}
            first += sum(len(group["params"]) for group in own["param_groups"])
        return {"state": state, "param_groups": []}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give each part its share of what `state_dict` returned."""
        first = 0
        for part in self.parts:
            own = part.state_dict()
            count = sum(len(group["params"]) for group in own["param_groups"])
            mine = {i - first: v for i, v in state_dict["state"].items() if first <= i < first + count}
            part.load_state_dict({"state": mine, "param_groups": own["param_groups"]})
            first += count
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def make_optimizer(model: nn.Module, part: OptimizerPart) -> torch.optim.Optimizer:
    """AdamW, or AdamW and Muon; weight decay touches matrices of linear maps only (PAPER.md, mistake 8).

    Norm gains, biases, gates, positions and embeddings are not decayed. Muon takes the matrices inside blocks, with
    updates of the size that AdamW's have (arXiv 2502.16982, equation 4), so that both follow one learning rate.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    inside: set[int] = set()
    if part.matrices == "muon":
        for module in model.modules():
            if isinstance(module, Block):
                inside |= {id(p) for p in module.parameters() if id(p) in linear}
    muon = [p for p in model.parameters() if p.requires_grad and id(p) in inside]
    for parameter in model.parameters():
        if parameter.requires_grad and id(parameter) not in inside:
            (decayed if id(parameter) in linear else spared).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": part.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=part.lr, betas=(part.betas[0], part.betas[1]), eps=1e-8, fused=True)
    for group in adamw.param_groups:
        group["scale"] = 1.0
    if not muon:
        return adamw
    second = torch.optim.Muon(muon, lr=part.lr, weight_decay=part.weight_decay, adjust_lr_fn="match_rms_adamw")
    for group in second.param_groups:
        group["scale"] = (part.muon_lr or part.lr) / part.lr
    return Together([adamw, second])


def learning_rate(part: OptimizerPart, step: int, progress: float) -> float:
    """Learning rate of a step.

    Args:
        part: peak, warm-up and decay.
        step: 0 for the first.
        progress: share of the horizon that has passed, 0 to 1 (in steps, or by the clock).

    Returns:
        peak x warm-up x decay, zero at the horizon. A group's own rate is this times its `scale`.
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
