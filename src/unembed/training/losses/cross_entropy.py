"""The training softmax: linear layer and cross-entropy in one, and the columns that it runs over.

Contents: `linear_cross_entropy`, `Shortlist`.

Row block by row block, so that the logits of a batch never stand in memory. The gradient of the loss with respect to
the logits is softmax minus one-hot, so it is made in the forward pass, while the block of logits is still in the cache,
and multiplied out at once.

The columns are the frequent tokens, the targets of the batch and a uniform sample of the rest; each sampled column
stands for (rest / sampled) others, so log(rest / sampled) is added to its logit and the sum of exponentials stays
unbiased given the targets (sampled softmax with log-q correction, Jean et al. 2015, arXiv 1412.2007).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unembed.diffusion.bound import bound
from unembed.training.recipes.recipe_parts import ObjectivePart

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


class Shortlist:
    """Draw the columns of a training softmax.

    Args:
        counts: (V,) occurrences of each token in the training texts.
        allowed: (V,) bool, tokens that may be targets.
        frequent: number of most frequent tokens that are always in.
        sampled: number of tokens sampled from the rest.
    """

    def __init__(self, counts: Tensor, allowed: Tensor, frequent: int, sampled: int) -> None:
        order = torch.argsort(counts.masked_fill(~allowed, -1), descending=True, stable=True)
        self.always = torch.zeros_like(allowed)
        self.always[order[:frequent]] = True
        self.always &= allowed
        self.allowed = allowed
        self.sampled = sampled

    @classmethod
    def of(cls, part: ObjectivePart, counts: Tensor, banned: Tensor) -> Shortlist | None:
        """The shortlist that a recipe asks for; None for the full vocabulary.

        Args:
            part: shortlist_frequent and shortlist_sampled.
            counts: (V,) occurrences of each token.
            banned: (V,) bool, ids that are never a target.
        """
        if not part.shortlist_frequent:
            return None
        return cls(counts, ~banned.cpu(), part.shortlist_frequent, part.shortlist_sampled)

    def draw(self, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw columns for a batch.

        Args:
            targets: (R,) token ids that must be in, repeats allowed; banned ones among them (the begin token, which is
                shown but never a target) get a correction of -inf.
            generator: of the sample.

        Returns:
            tokens (K,), correction (K,) to add to the logits, and the column of each token that is in, (V,).
        """
        inside = self.always.clone()
        inside[targets] = True
        rest = (self.allowed & ~inside).nonzero().squeeze(1)
        take = min(self.sampled, len(rest))
        if take:
            # With replacement first, then made distinct: cheap, and uniform over the rest.
            picks = torch.randint(len(rest), (take,), generator=generator).unique()
            drawn = rest[picks]
            correction = torch.log(torch.tensor(len(rest) / len(drawn)))
        else:
            drawn, correction = rest[:0], torch.tensor(0.0)
        fixed = inside.nonzero().squeeze(1)
        tokens = torch.cat((fixed, drawn))
        added = torch.zeros(len(tokens))
        added[len(fixed) :] = correction
        added[: len(fixed)].masked_fill_(~self.allowed[fixed], -torch.inf)
        column = torch.zeros(len(self.allowed), dtype=torch.long)
        column[tokens] = torch.arange(len(tokens))
        return tokens, added, column
