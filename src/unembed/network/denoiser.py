"""The denoiser: a bidirectional transformer that fills masks, conditioned on a vector (arXiv 2602.11047).

Contents: `Denoiser`, `build_network`; `lower_precision`, `autocast`, `supports_fast_bf16`: matrices in bf16.

Row i of the network always predicts token i. In bidirectional use a row holds its own token or a mask; in causal use
it holds the token before (`PREFIX` state), so that one set of weights serves both orders: a causal mask over shifted
rows learns every position of a text in one pass. Every part beyond the plain transformer is a switch of the config.

A processor with AMX tiles or AVX512-BF16, and a GPU, multiplies bf16 matrices four to eight times faster than fp32 ones
(docs/log.md). Norms, positions, biases of the head, the whitening, the length head and the closed forms stay in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.diffusion.schedule import get_schedule
from unembed.errors import InputError
from unembed.network.base import MASK, PREFIX, Network
from unembed.network.block import Block, modulate
from unembed.network.conditioning import CausalState, Condition, Conditioner, TimeModulation, time_of
from unembed.network.config import ModelConfig
from unembed.network.heads import row_parts
from unembed.network.variants.autoregressive import Autoregressive
from unembed.network.variants.paper import PaperBlock, PaperConditioner

_STATES = 4
"""Rows of the table of position states."""


class Denoiser(Network):
    """Predict masked tokens from visible ones and a vector.

    Args:
        config: the shape.
        banned: (V,) bool, ids that are never output (special tokens); the end token is handled by the canvas.
    """

    def __init__(self, config: ModelConfig, banned: Tensor | None = None) -> None:
        super().__init__(config)
        c = config
        self.state = nn.Embedding(_STATES, c.width)
        self.position = nn.Embedding(c.max_length + 1, c.width)
        self.position_from_end = nn.Embedding(c.max_length + 1, c.width) if c.canvas == "length" else None
        for table in (self.state, self.position, self.position_from_end):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02 if c.plain_embedding else 0.3)
        self.conditioner: Conditioner | PaperConditioner
        if c.backbone == "paper":
            self.conditioner = PaperConditioner(c.vector_dim, c.width, c.layers)
        else:
            rank = c.adaln_rank if c.adaln == "factored" else 0
            self.conditioner = Conditioner(c.vector_dim, c.width, c.layers, rank, c.prefix_tokens)
        self.time = TimeModulation(c.layers, c.modulation_parts, c.width) if c.time_conditioning else None
        self.schedule = get_schedule(c.schedule)
        self.null = nn.Parameter(torch.zeros(c.vector_dim)) if c.null_vector else None
        self._finish(PaperBlock if c.backbone == "paper" else Block, banned)

    def condition(self, vectors: Tensor, dropped: Tensor | None = None) -> Condition:
        """See `Network.condition`.

        Args:
            vectors, dropped: likewise.

        Returns:
            Modulation of each block, memory rows, and the token prior's evidence.
        """
        z, known = self._scaled(vectors), None
        if dropped is not None and self.null is not None:
            z, known = torch.where(dropped.unsqueeze(1), self.null, z), (~dropped).float().unsqueeze(1)
        modulation, final, memory = self.conditioner(z)
        text = torch.arange(len(z), device=z.device)
        return Condition(z, modulation, final, memory, self._evidence(z), text, known)

    def hidden(
        self,
        ids: Tensor,
        states: Tensor,
        condition: Condition,
        lengths: Tensor | None = None,
        causal: bool = False,
        table: Tensor | None = None,
        rows: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Tensor:
        """See `Network.hidden`; both orders, with and without padding.

        Args:
            ids, states, condition, lengths, causal, table, rows, time: likewise.

        Returns:
            (B, n, width) after the last modulated norm.
        """
        n = ids.shape[1]
        position = torch.arange(n, device=ids.device)
        # A masked token is embedded as zeros: (B, n, width), with its state and its place from both ends added.
        x = self._embed(ids if rows is None else rows, table) * (states != MASK).unsqueeze(-1)
        x = x + self.state(states) + self.position(position)
        if self.position_from_end is not None and not causal:
            if lengths is None:
                x = x + self.position_from_end(n - 1 - position)
            else:
                x = x + self.position_from_end((lengths.unsqueeze(1) - 1 - position).clamp_min(0))
        inside = None if lengths is None else position < lengths.unsqueeze(1)  # (B, n)
        memory = condition.memory  # (B, m, width)
        m = memory.shape[1]
        mask = None
        if causal:
            # (n, m + n): every row sees the memory, itself and the rows before it.
            mask = torch.ones(n, m + n, dtype=torch.bool, device=ids.device).tril(m)
        elif inside is not None:
            mask = F.pad(inside, (m, 0), value=True)[:, None, None, :]  # (B, 1, 1, m + n), padding is not seen
        modulation = condition.modulation  # (B, layers, 6, width)
        if self.time is not None:
            t = time_of(states == MASK, None if causal else lengths, self.schedule) if time is None else time
            modulation = modulation + self.time(t)
        for i, block in enumerate(self._stack):
            if condition.draft is not None:
                x = condition.draft.read(i, x)
            past = block.attention.memory(memory) if m else None
            x, _ = block(x, modulation[:, i], past, mask)
        return modulate(F.layer_norm(x, (self.config.width,)), condition.final[:, 0], condition.final[:, 1])

    def start_causal(self, condition: Condition) -> CausalState:
        """See `Network.start_causal`.

        Args:
            condition: likewise.

        Returns:
            The memory rows of each block, and no token yet.

        Raises:
            InputError: the denoiser was not trained with causal rows.
        """
        if not self.config.causal:
            raise InputError(
                "This checkpoint was not trained with causal rows, so it cannot draft left to right.",
                "Use another strategy, such as adaptive.",
            )
        memory = condition.memory
        nothing = torch.zeros(len(condition), 0, dtype=torch.long, device=memory.device)
        return CausalState(condition, [block.attention.memory(memory) for block in self._stack], 0, nothing)

    def next_logits(self, last: Tensor, state: CausalState) -> tuple[Tensor, CausalState]:
        """See `Network.next_logits`.

        Args:
            last, state: likewise.

        Returns:
            Logits (B, V) and the state that follows.
        """
        ids = last.unsqueeze(1)
        x = self._embed(ids) + self.state(torch.full_like(ids, PREFIX)) + self.position.weight[state.index]
        past = []
        modulation = state.condition.modulation
        if self.time is not None:
            modulation = modulation + self.time(torch.zeros(len(last), device=last.device))  # nothing is masked
        for i, block in enumerate(self.blocks):
            if state.condition.draft is not None:
                x = state.condition.draft.read(i, x)
            x, kv = block(x, modulation[:, i], state.past[i])
            past.append(kv)
        final = state.condition.final
        hidden = modulate(F.layer_norm(x, (self.config.width,)), final[:, 0], final[:, 1])[:, 0]
        owner = torch.arange(len(last), device=last.device)
        tokens = torch.cat((state.tokens, ids), dim=1)
        vocab = self.config.vocab_size
        scores = torch.empty(len(last), vocab, device=hidden.device)
        for rows in row_parts(len(last), vocab, hidden.device):
            scores[rows] = self.token_logits(hidden[rows], owner[rows], state.condition, used=tokens[rows])
        return scores, CausalState(state.condition, past, state.index + 1, tokens)


def build_network(config: ModelConfig, banned: Tensor | None = None) -> Network:
    """Build the network of a config, untrained: an `Autoregressive` where the backbone says so, else a `Denoiser`."""
    return (Autoregressive if config.backbone == "autoregressive" else Denoiser)(config, banned)


PRECISIONS = ("fp32", "bf16", "auto")


def supports_fast_bf16(device: torch.device) -> bool:
    """Whether products in bf16 are faster than in fp32 there."""
    if device.type != "cpu":
        return device.type == "cuda"
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(supported is not None and supported() for supported in asked)


def lower_precision(denoiser: Network, precision: str) -> str:
    """Turn the matrices of a denoiser that only decodes from now on into bf16, where asked for.

    Args:
        denoiser: changed in place.
        precision: "fp32", "bf16", or "auto" (bf16 where it is fast).

    Returns:
        "fp32" or "bf16".

    Raises:
        InputError: another precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"There is no precision {precision!r}.", f"Use one of {', '.join(PRECISIONS)}.")
    if precision == "auto":
        precision = "bf16" if supports_fast_bf16(denoiser.banned.device) else "fp32"
    if precision == "bf16":
        kept = {id(module) for module in denoiser.length.modules()}
        for module in denoiser.modules():
            if isinstance(module, nn.Linear) and id(module) not in kept:
                module.to(torch.bfloat16)
        denoiser.embedding.to(torch.bfloat16)
    return precision


def autocast(denoiser: Network) -> Any:
    """The context in which a denoiser decodes: bf16 products where its matrices were lowered, else nothing changes."""
    lowered = denoiser.embedding.weight.dtype == torch.bfloat16
    return torch.autocast(denoiser.banned.device.type, dtype=torch.bfloat16, enabled=lowered)
