"""Which blocks and which conditioner a shape asks for. Contents: `make_blocks`, `make_conditioner`, `parts_of`."""

from __future__ import annotations

from torch import nn

from unembed.network.block import Block
from unembed.network.conditioning import Conditioner
from unembed.network.config import Shape
from unembed.network.variants.paper import PARTS, PaperBlock, PaperConditioner

_BLOCKS: dict[str, type[Block]] = {
    "adaln-zero": Block,
    "paper": PaperBlock,
    "autoregressive": Block,
}


def make_blocks(shape: Shape) -> nn.ModuleList:
    """The blocks of a shape, new."""
    kind = _BLOCKS[shape.backbone]
    return nn.ModuleList(
        [kind(shape.width, shape.heads, shape.mlp or 4 * shape.width, shape.dropout) for _ in range(shape.layers)]
    )


def make_conditioner(shape: Shape, vector_dim: int) -> Conditioner | PaperConditioner:
    """What turns vectors of `vector_dim` dimensions into the modulation of those blocks."""
    if shape.backbone == "paper":
        return PaperConditioner(vector_dim, shape.width, shape.layers)
    rank = shape.adaln_rank if shape.adaln == "factored" else 0
    return Conditioner(vector_dim, shape.width, shape.layers, rank, shape.prefix_tokens)


def parts_of(shape: Shape) -> int:
    """Vectors that the modulation of one block has."""
    return PARTS if shape.backbone == "paper" else 6
