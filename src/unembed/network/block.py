"""One transformer block: bidirectional or causal attention over tokens and memory, AdaLN-Zero modulation, MLP.

Contents: `modulate`, `attend`, `Attention`, `Block`, `compile_blocks`.

The modulation follows DiT (arXiv 2212.09748, section 3.2): shift, scale and gate for each of the two branches come
from the condition, and start at zero, so that a new block is the identity. Memory (prefix tokens made from the vector)
joins as keys and values only: it costs 2 width^2 a memory row instead of a block's 12 width^2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GRAPHS = 32  # compiled forms of a block in one process


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply AdaLN: x (1 + scale) + shift, the same for every position (2212.09748).

    Args:
        x: (B, n, width), normalised.
        shift: (B, width).
        scale: (B, width).
    """
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention; two plain products on a CPU, the fused kernel elsewhere.

    On rows of 32 tokens torch 2.13's fused CPU kernel takes 58 ms forward and backward where two batched products
    take 13 ms (128 texts, 6 heads of 64, one core, bf16; docs/log.md).

    Args:
        queries: (B, heads, n, width / heads).
        keys: (B, heads, m, width / heads).
        values: like keys.
        mask: bool, True where a query may look, or a float that is added to the scores; broadcastable to
            (B, heads, n, m).
        dropout: on the attention weights.
    """
    if queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, dropout_p=dropout)
    scores = torch.matmul(queries * queries.shape[-1] ** -0.5, keys.transpose(-1, -2))
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -30000.0)
        scores = scores + mask
    weights = scores.softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return torch.matmul(weights.to(values.dtype), values)


class Attention(nn.Module):
    """Multi-head attention over the positions and a memory.

    Args:
        width: model width; a multiple of `heads`.
        heads: number of heads.
        dropout: dropout on the attention weights while training.
        normalise: normalise queries and keys, with a learnt scale.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, normalise: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.normalise = normalise
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        if normalise:
            self.query_scale = nn.Parameter(torch.ones(width // heads))
            self.key_scale = nn.Parameter(torch.ones(width // heads))

    def _split(self, x: Tensor) -> Tensor:
        batch, n, width = x.shape
        return x.view(batch, n, self.heads, width // self.heads).transpose(1, 2)

    def _norm_keys(self, keys: Tensor) -> Tensor:
        if not self.normalise:
            return keys
        return F.rms_norm(keys, (keys.shape[-1],), self.key_scale.to(keys.dtype), 1e-6)

    def memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the memory, each (B, heads, M, width / heads)."""
        width = memory.shape[-1]
        kv = F.linear(memory, self.qkv.weight[width:], self.qkv.bias[width:])
        keys, values = kv.chunk(2, dim=-1)
        return self._norm_keys(self._split(keys)), self._split(values)

    def forward(
        self,
        x: Tensor,
        past: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend from x to `past` followed by x.

        Args:
            x: (B, n, width).
            past: keys and values that come before those of x (memory, or a causal prefix).
            mask: see `attend`; broadcastable to (B, heads, n, keys).

        Returns:
            The output (B, n, width), and all keys and values, for incremental decoding.
        """
        queries, keys, values = (self._split(part) for part in self.qkv(x).chunk(3, dim=-1))
        if self.normalise:
            queries = F.rms_norm(queries, (queries.shape[-1],), self.query_scale.to(queries.dtype), 1e-6)
        keys = self._norm_keys(keys)
        values = values.to(keys.dtype)
        if past is not None:
            keys = torch.cat((past[0].to(keys.dtype), keys), dim=2)
            values = torch.cat((past[1].to(values.dtype), values), dim=2)
        mixed = attend(queries.to(values.dtype), keys, values, mask, self.dropout if self.training else 0.0)
        batch, _, n, _ = mixed.shape
        return self.out(mixed.transpose(1, 2).reshape(batch, n, -1)), (keys, values)


class Block(nn.Module):
    """Attention and MLP, each behind a modulated norm and a gate (AdaLN-Zero).

    Args:
        width: model width.
        heads: attention heads.
        mlp: hidden width of the MLP; its activation is the squared ReLU (arXiv 2109.08668), cheap on a CPU.
        dropout: dropout on both branches while training.
    """

    def __init__(self, width: int, heads: int, mlp: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.attention = Attention(width, heads, dropout)
        self.up = nn.Linear(width, mlp)
        self.down = nn.Linear(mlp, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        past: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the block.

        Args:
            x: (B, n, width).
            modulation: (B, 6, width): shift, scale, gate of attention, then of the MLP.
            past: see `Attention.forward`.
            mask: see `Attention.forward`.
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.unbind(1)
        mixed, kv = self.attention(modulate(F.layer_norm(x, (self.width,)), shift_a, scale_a), past, mask)
        x = x + gate_a.unsqueeze(1) * self.drop(mixed)
        hidden = F.relu(self.up(modulate(F.layer_norm(x, (self.width,)), shift_m, scale_m))).square()
        return x + gate_m.unsqueeze(1) * self.drop(self.down(hidden)), kv


def compile_blocks(model: nn.Module) -> None:
    """Compile every block of a model at its first use, for texts of any length."""
    # A graph each with and without mask, past and gradients, and for single rows and columns: more than torch's 8.
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _GRAPHS)
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True)


def compiled_blocks(model: nn.Module) -> bool:
    """Whether a block of a model is compiled."""
    return any(isinstance(m, Block) and m._compiled_call_impl is not None for m in model.modules())


def uncompile_blocks(*models: nn.Module) -> bool:
    """Let every block run as it is written again; false where none was compiled."""
    compiled = any(map(compiled_blocks, models))
    for model in models:
        for module in model.modules():
            if isinstance(module, Block):
                module._compiled_call_impl = None
    return compiled
