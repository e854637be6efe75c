"""Linear layer and cross-entropy in one, row block by row block: the logits of a batch are never in memory.

Contents: `linear_cross_entropy`.

The gradient of the loss with respect to the logits is softmax minus one-hot, so it is made in the forward pass, while
the block of logits is still in the cache, and multiplied out at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unembed.diffusion.bound import bound

_BLOCK_VALUES = 1 << 21


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        row_weights: Tensor,
        gates: Tensor,
        scores: list[Tensor],
        owners: list[Tensor | None],
        used: list[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        dtype = hidden.dtype
        low = weight.to(dtype)
        learns = weight.requires_grad  # a third of the products, for nothing where the matrix is frozen
        rows, columns = len(hidden), len(weight)
        device = hidden.device
        losses = torch.empty(rows, device=device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, device=device)
        grad_bias = torch.zeros(columns, device=device)
        grad_gate = torch.zeros(len(scores), rows, device=device)
        step = max(1, _BLOCK_VALUES // columns)
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            logits = torch.mm(hidden[part], low.T).float().add_(bias)
            extras = []
            for values, owner, seen in zip(scores, owners, used, strict=True):
                extra = values[part] if owner is None else values[owner[part]]
                extras.append(extra if seen is None else extra.scatter(1, seen[part], 0.0))
            for i, extra in enumerate(extras):
                logits.addcmul_(extra, gates[i, part].unsqueeze(1))
            index = targets[part].unsqueeze(1)
            picked = logits.gather(1, index)
            peak = logits.amax(1, keepdim=True)
            torch.exp(logits.sub_(peak), out=logits)
            total = logits.sum(1, keepdim=True)
            losses[part] = (total.log() + peak - picked).squeeze(1)
            factor = row_weights[part].unsqueeze(1)
            logits.mul_(factor / total)
            logits.scatter_add_(1, index, -factor)
            grad_bias += logits.sum(0)
            for i, extra in enumerate(extras):
                grad_gate[i, part] = torch.linalg.vecdot(logits, extra)
            slope = logits.to(dtype)
            torch.mm(slope, low, out=grad_hidden[part])
            if learns:
                grad_weight += torch.mm(slope.T, hidden[part])
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, grad_gate)
        ctx.mark_non_differentiable(losses)
        return bound(losses, row_weights), losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias, grad_gate = ctx.saved_tensors
        g = grads[0]
        return (
            grad_hidden * g.to(grad_hidden.dtype),
            grad_weight * g if ctx.needs_input_grad[1] else None,
            grad_bias * g,
            None,
            None,
            grad_gate * g,
            None,
            None,
            None,
        )


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    row_weights: Tensor,
    gates: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]] | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of cross-entropies of softmax(hidden weight^T + bias + sum of gate x scores).

    Args:
        hidden: (R, E); its dtype is that of the products.
        weight: (K, E) float32.
        bias: (K,) float32.
        targets: (R,) columns.
        row_weights: (R,) float32.
        gates: a gate (R,), scores (R, K) or (B, K) float32, owners: None, or (R,) the row of the scores for each row of
            `hidden`, and used: None, or (R, U) columns whose score is 0 in that row. The gate learns, scores do not.

    Returns:
        The differentiable sum, and the unweighted cross-entropies (R,) for reports.
    """
    gates = gates or []
    values = torch.stack([gate.float() for gate, *_ in gates]) if gates else torch.zeros(0, len(hidden))
    loss, losses = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden,
        weight,
        bias,
        targets,
        row_weights,
        values,
        [scores.float() for _, scores, _, _ in gates],
        [owner for _, _, owner, _ in gates],
        [used for *_, used in gates],
    )
    return loss, losses
