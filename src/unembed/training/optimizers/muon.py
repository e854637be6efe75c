"""Muon: momentum whose singular values are set to about one, for the matrices inside blocks.

Contents: `Muon`, `orthogonalised`.

`torch.optim.Muon` computes in bfloat16 alone, which is eighty times slower than float32 on a processor without bf16
products (docs/log.md), and one matrix after the other, which is many small launches on a GPU. Here matrices of one
shape are stacked, and the arithmetic is that of the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

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
