"""AdamW with decay on matrices only, and Muon for the blocks' matrices where asked.

Contents: `make_optimizer`, `CombinedOptimizer`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from unembed.network.block import Block
from unembed.training.optimizers.muon import Muon
from unembed.training.recipes.recipe_parts import OptimizerPart


class CombinedOptimizer(torch.optim.Optimizer):
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


def make_optimizer(model: nn.Module, part: OptimizerPart, precision: str = "fp32") -> torch.optim.Optimizer:
    """AdamW, or AdamW and Muon; weight decay touches matrices of linear maps only (PAPER.md, mistake 8).

    Norm gains, biases, gates, positions and embeddings are not decayed. Muon takes the matrices inside blocks, with
    updates of the size that AdamW's have (arXiv 2502.16982, equation 4), so that both follow one learning rate.

    Args:
        model: the parameters that require a gradient are taken.
        part: rates, decay, betas, and what moves the matrices.
        precision: "bf16" lets Muon compute in bfloat16.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    inside: set[int] = set()
    stacked: set[int] = set()  # queries, keys and values in one matrix
    if part.matrices == "muon":
        for module in model.modules():
            if isinstance(module, Block):
                inside |= {id(p) for p in module.parameters() if id(p) in linear}
                stacked.add(id(module.attention.qkv.weight))
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
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    parts: list[dict[str, Any]] = [
        {"params": [p for p in muon if id(p) not in stacked], "pieces": 1},
        {"params": [p for p in muon if id(p) in stacked], "pieces": 3},
    ]
    second = Muon(parts, lr=part.lr, weight_decay=part.weight_decay, dtype=dtype)
    for group in second.param_groups:
        group["scale"] = (part.muon_lr or part.lr) / part.lr
    return CombinedOptimizer([adamw, second])
