"""The functions of a step that are compiled: a block, a chunk of the head, a layer of the encoder.

Contents: `Kernels`, `run_block`.

Each is one function of plain tensors, compiled for fixed shapes: one graph a bucket, which all blocks share. What is
between them is a few small operations, left as they are: a compiler would take minutes for the whole step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unembed.encoders.bert import bert_layer
from unembed.network.block import Block
from unembed.training.device.head import Scorer, score_chunk

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
