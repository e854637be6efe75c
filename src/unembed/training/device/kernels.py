"""The functions of a step that are compiled: a block, a chunk of the head, a layer of the encoder.

Contents: `Kernels`, `run_block`; `head_loss`, `chunk_of`, `score_chunk`: linear layer and cross-entropy in one.

Each is one function of plain tensors, compiled for fixed shapes: one graph a bucket, which all blocks share. What is
between them is a few small operations, left as they are: a compiler would take minutes for the whole step.

As in `training/losses/cross_entropy.py` the gradient of the logits, softmax minus one-hot, is made with the loss, and
multiplied out at once. Here a row may have corrections at some columns, which carry a gradient; frozen columns hold the
token prior (`columns.py`); and all chunks of a bucket have one shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unembed.diffusion.bound import bound
from unembed.encoders.bert import bert_layer
from unembed.network.block import Block

_GRAPHS = 64
"""Graphs that a function may have; torch's own limit of 8 would be passed by four buckets and a smaller batch."""


def run_block(block: Block, x: Tensor, modulation: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
    """Run a block with the keys and values of its memory.

    Args:
        block: of the denoiser.
        x: (B, w, width).
        modulation: (B, 6, width).
        memory: (B, M, width).
        bias: (B, 1, w, M + w), added to the attention scores.
    """
    past = block.attention.memory(memory) if memory.shape[1] else None
    out: Tensor = block(x, modulation, past, bias)[0]
    return out


class Kernels:
    """The three functions, compiled at their first use or as they are written.

    Args:
        compiled: which.

    Attributes:
        block, chunk, layer: the functions.
    """

    def __init__(self, compiled: bool) -> None:
        self.block: Callable[..., Tensor] = run_block
        self.chunk: Scorer = score_chunk
        self.layer: Callable[..., Tensor] = bert_layer
        self.compiled = compiled
        if compiled:
            config: Any = torch._dynamo.config
            config.recompile_limit = max(config.recompile_limit, _GRAPHS)
            self.block = torch.compile(run_block, dynamic=False)
            self.chunk = torch.compile(score_chunk, dynamic=False)
            self.layer = torch.compile(bert_layer, dynamic=False)

    def uncompile(self) -> bool:
        """Continue with the functions as they are written; false where they were not compiled."""
        compiled, self.compiled = self.compiled, False
        self.block, self.chunk, self.layer = run_block, score_chunk, bert_layer
        return compiled


_CELLS = {"cpu": 1 << 21, "cuda": 5 << 24}
"""Logits of a chunk: what stays in a CPU's cache; what fills a GPU and takes half a gigabyte."""

Scorer = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]


def chunk_of(rows: int, columns: int, device: str) -> int:
    """Rows of a chunk; the number of rows is filled up to a multiple of it.

    Args:
        rows: R, at least this many have to fit.
        columns: K.
        device: "cpu" or "cuda".
    """
    chunks = -(-rows * columns // _CELLS.get(device, _CELLS["cuda"]))
    return -(-rows // chunks)


def score_chunk(
    product: Tensor, bias: Tensor, columns: Tensor, added: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cross-entropies of some rows, and all slopes.

    Args:
        product: (r, K) hidden rows times the matrix.
        bias: (K,) float32.
        columns: (r, U) columns that something is added to; one that is there twice gets both.
        added: (r, U) float32.
        targets: (r,) columns.
        weights: (r,) float32.

    Returns:
        Losses (r,); slope of the logits (r, K) in the dtype of the product; slope of `added` (r, U); of the bias (K,).
    """
    logits = product.float().add_(bias).scatter_add_(1, columns, added)
    index, weight = targets.unsqueeze(1), weights.unsqueeze(1)
    picked = logits.gather(1, index)
    peak = logits.amax(1, keepdim=True)
    slope = logits.sub_(peak).exp_()
    total = slope.sum(1, keepdim=True)
    losses = (total.log() + peak - picked).squeeze(1)
    slope = slope.mul_(weight / total).scatter_add_(1, index, -weight)
    return losses, slope.to(product.dtype), slope.gather(1, columns), slope.sum(0)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        added: Tensor,
        frozen: Tensor,
        columns: Tensor,
        targets: Tensor,
        weights: Tensor,
        chunk: int,
        scorer: Scorer,
    ) -> Tensor:
        low = torch.cat((weight.to(hidden.dtype), frozen), 1)  # (K, E + P)
        e = weight.shape[1]
        loss = torch.zeros((), device=hidden.device)
        grad_hidden, grad_added = torch.empty_like(hidden), torch.empty_like(added)
        grad_weight = torch.zeros(weight.shape, device=hidden.device)
        grad_bias = torch.zeros_like(bias)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            product = hidden[part] @ low.T
            losses, slope, grad_added[part], of_bias = scorer(
                product, bias, columns[part], added[part], targets[part], weights[part]
            )
            loss += bound(losses, weights[part])
            grad_hidden[part] = slope @ low
            grad_weight += slope.T @ hidden[part, :e]
            grad_bias += of_bias
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, grad_added)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_hidden, of_weight, of_bias, of_added = ctx.saved_tensors
        g = grads[0]
        return of_hidden * g.to(of_hidden.dtype), of_weight * g, of_bias * g, of_added * g, *(None,) * 6


def head_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    added: Tensor,
    frozen: Tensor,
    columns: Tensor,
    targets: Tensor,
    weights: Tensor,
    chunk: int,
    scorer: Scorer = score_chunk,
) -> Tensor:
    """Weighted sum of the cross-entropies of softmax(hidden (weight, frozen)^T + bias + added at columns).

    Args:
        hidden: (R, E + P); its dtype is that of the products. R is a multiple of `chunk`.
        weight: (K, E) float32, learns.
        bias: (K,) float32, learns.
        added: (R, U) float32, carries a gradient.
        frozen: (K, P) in the dtype of `hidden`, does not learn.
        columns: (R, U) columns that `added` is added to.
        targets: (R,) columns.
        weights: (R,) float32; 0 for a row that only fills up.
        chunk: rows that go through at once.
        scorer: `score_chunk`, compiled or not.

    Returns:
        (), differentiable.
    """
    loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, added, frozen, columns, targets, weights, chunk, scorer
    )
    return loss
