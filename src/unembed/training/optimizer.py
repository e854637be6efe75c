"""AdamW, Muon for the blocks' matrices where asked, the learning rate, and the average of the weights.

Contents: `make_optimizer`, `CombinedOptimizer`, `Muon`, `orthogonalised`, `Ema`, `learning_rate`.

Muon is momentum whose singular values are set to about one. `torch.optim.Muon` computes in bfloat16 alone, which is
eighty times slower than float32 on a processor without bf16 products (docs/log.md), and one matrix after the other,
which is many small launches on a GPU. Here matrices of one shape are stacked, and the arithmetic is that of the run.
The average is always in fp32: in bf16 it would never move.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from unembed.network.block import Block
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
    """AdamW, or AdamW and Muon; weight decay touches matrices of linear maps only.

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


_A, _B, _C = 3.4445, -4.7750, 2.0315  # steepest at zero: singular values end between 0.7 and 1.2 (Jordan et al., 2024)
_STEPS = 5


def orthogonalised(stack: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring all singular values near one by five Newton-Schulz steps, without a decomposition.

    Args:
        stack: (N, a, b) matrices.
        dtype: of the products.

    Returns:
        (N, a, b) in `dtype`: for each matrix U S V' about U V'.
    """
    x = stack.to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)  # the Gram matrix of the smaller side
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)  # no singular value above one
    for _ in range(_STEPS):
        gram = x @ x.transpose(1, 2)
        x = _A * x + torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C) @ x
    out: Tensor = x.transpose(1, 2) if tall else x
    return out


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum, with updates of the size that AdamW's have (arXiv 2502.16982, equation 4).

    Args:
        parameters: matrices, or groups of them. A group may say `pieces`: its matrices are this many maps stacked by
            rows (queries, keys and values), each of which is made orthogonal on its own.
        lr: learning rate, on AdamW's scale.
        weight_decay: decoupled.
        momentum: of the gradients.
        dtype: of the orthogonalisation; bfloat16 where that is fast, else float32.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "pieces": 1})
        self.dtype = dtype
        self.found_inf: Tensor | None = None  # () 1 where the next step is to be left out, as a fused AdamW has it

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move all matrices that have a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    if "momentum_buffer" not in self.state[parameter]:
                        self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                grads = [p.grad for p in parameters if p.grad is not None]
                momenta = [self.state[p]["momentum_buffer"] for p in parameters]
                kept: Tensor | float = 1.0
                if self.found_inf is not None:  # decided on the device: momentum and weights stay as they are
                    kept = 1.0 - self.found_inf
                    grads = [torch.where(self.found_inf > 0, m, g) for g, m in zip(grads, momenta, strict=True)]
                torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, momenta, group["momentum"])
                a, b = shape[0] // group["pieces"], shape[1]
                stack = torch.stack(ahead).view(-1, a, b)  # (matrices x pieces, a, b)
                moved = orthogonalised(stack, self.dtype).to(parameters[0].dtype).reshape(-1, *shape)
                # An orthogonal (a, b) has elements of RMS 1 / sqrt(max(a, b)); AdamW's are about 0.2.
                size = 0.2 * max(a, b) ** 0.5
                moved = moved * kept
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"] * kept)
                torch._foreach_add_(parameters, list(moved.unbind(0)), alpha=-group["lr"] * size)


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


def learning_rate(part: OptimizerPart, step: int, progress: float, decays: bool = True) -> float:
    """Learning rate of a step.

    Args:
        part: peak, warm-up, hold and decay.
        step: 0 for the first.
        progress: share of the horizon that has passed, 0 to 1 (in steps, or by the clock).
        decays: false keeps the peak after the warm-up (a run without a horizon).

    Returns:
        peak x warm-up x decay, zero at the horizon. A group's own rate is this times its `scale`.
    """
    warm = min(1.0, (step + 1) / max(part.warmup, 1))
    if not decays or part.decay == "none":
        return part.lr * warm
    share = min(max((progress - part.hold) / (1.0 - part.hold), 0.0), 1.0)
    return part.lr * warm * (1.0 - share)
