"""What the denoiser is made of, and what it makes of a vector before any token is read.

Contents: `DenoiserParts`: tables, conditioner, blocks, heads and closed-form priors of a config; the condition.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.diffusion.schedule import get_schedule
from unembed.network.backbones import make_blocks, make_conditioner, parts_of
from unembed.network.block import Block
from unembed.network.conditioning import Condition
from unembed.network.config import ModelConfig
from unembed.network.heads import LengthNetwork, TokenHead
from unembed.network.time_modulation import TimeModulation
from unembed.priors.token_prior import TokenPrior
from unembed.priors.whitening import Whitening

_STATES = 4
"""Rows of the table of position states; `denoiser` names them."""


def _gate(width: int) -> nn.Linear:
    """How much the token prior counts at a row: the same everywhere at first, then learnt from the row's hidden state.

    It starts where a single number ended after eight minutes of training (docs/log.md).
    """
    gate = nn.Linear(width, 1)
    nn.init.zeros_(gate.weight)
    nn.init.constant_(gate.bias, 0.25)
    return gate


class DenoiserParts(nn.Module):
    """The parts of a `Denoiser`, and its condition.

    Args:
        config: the shape.
        banned: (V,) bool, ids that are never output (special tokens); the end token is handled by the canvas.
    """

    banned: Tensor

    def __init__(self, config: ModelConfig, banned: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        c = config
        embedding_dim = c.embedding_dim or c.width
        self.whitening = Whitening(c.vector_dim)
        self.embedding = nn.Embedding(c.vocab_size, embedding_dim)
        nn.init.normal_(self.embedding.weight, std=0.05)
        if not c.plain_embedding:
            self.embed = nn.Linear(embedding_dim, c.width)
        self.state = nn.Embedding(_STATES, c.width)
        self.position = nn.Embedding(c.max_length + 1, c.width)
        self.position_from_end = nn.Embedding(c.max_length + 1, c.width) if c.canvas == "length" else None
        for table in (self.state, self.position, self.position_from_end):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02 if c.plain_embedding else 0.3)
        self.conditioner = make_conditioner(c, c.vector_dim)
        self.time = TimeModulation(c.layers, parts_of(c), c.width) if c.time_conditioning else None
        self.schedule = get_schedule(c.schedule)
        self.null = nn.Parameter(torch.zeros(c.vector_dim)) if c.null_vector else None
        self.blocks = make_blocks(c)
        self.head = TokenHead(c.width, embedding_dim, c.vocab_size)
        self.length = LengthNetwork(c.vector_dim, c.width, c.max_length)
        self.token_prior = TokenPrior(c.vocab_size, c.vector_dim) if c.token_prior else None
        if c.token_prior:
            self.token_gate = _gate(c.width)
        if banned is None:
            banned = torch.zeros(c.vocab_size, dtype=torch.bool)
            banned[[c.mask_id, c.bos_id, c.pad_id]] = True
        self.register_buffer("banned", banned.clone(), persistent=True)
        self.banned[c.eos_id] = False

    @property
    def _stack(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    # ------------------------------------------------------------------ condition

    def condition(self, vectors: Tensor, dropped: Tensor | None = None) -> Condition:
        """Work out once what every pass needs to know of the vectors.

        Args:
            vectors: (B, d), as the encoder makes them.
            dropped: (B,) bool, rows that get the learnt null vector instead (config `null_vector`); None: no row.

        Returns:
            The condition of the B vectors.
        """
        z, known = self._scaled(vectors), None
        if dropped is not None and self.null is not None:
            z, known = torch.where(dropped.unsqueeze(1), self.null, z), (~dropped).float().unsqueeze(1)
        modulation, final, memory = self.conditioner(z)
        evidence = None
        if self.token_prior is not None and not self.training:
            evidence = self.token_prior.scores(z, frequency=False)
        text = torch.arange(len(z), device=z.device)
        return Condition(z, modulation, final, memory, evidence, text, known)

    def unconditional(self) -> Condition:
        """Make the condition of a vector that says nothing.

        Returns:
            One row: of the learnt null vector, or else of the mean vector.
        """
        mean = self.whitening.mean.unsqueeze(0)
        if self.null is None:
            return self.condition(mean)
        return self.condition(mean, torch.ones(1, dtype=torch.bool, device=mean.device))

    def length_log_probs(self, vectors: Tensor) -> Tensor:
        """Score the lengths of the texts behind vectors.

        Args:
            vectors: (B, d), as the encoder makes them.

        Returns:
            log p(n | vector), (B, max_length), column 0 for n = 1.
        """
        log_probs: Tensor = self.length(self._scaled(vectors))
        return log_probs

    def _scaled(self, vectors: Tensor) -> Tensor:
        # Small components are blown up here: never in bf16, whatever the surrounding autocast says.
        with torch.autocast(vectors.device.type, enabled=False):
            if self.config.whiten:
                z: Tensor = self.whitening(vectors.float())
                return z
            centred: Tensor = (vectors.float() - self.whitening.mean) * self.config.vector_dim**0.5
            return centred

    def _embed(self, ids: Tensor, table: Tensor | None = None) -> Tensor:
        rows = F.embedding(ids, self.embedding.weight if table is None else table)
        if self.config.plain_embedding:
            return rows
        embedded: Tensor = self.embed(F.layer_norm(rows, (rows.shape[-1],)))
        return embedded

    # ------------------------------------------------------------------ counting

    def parameter_counts(self) -> dict[str, int]:
        """Count trainable parameters.

        Returns:
            `total`; `vocabulary` (embedding and output bias); `blocks` (active per token); `length` (the network for
            p(n | vector), idle where the canvas is "eos"); and `without_vocabulary`, total less vocabulary and less an
            idle length network, which is what papers compare.
        """
        total = sum(p.numel() for p in self.parameters())
        vocabulary = self.embedding.weight.numel() + self.head.bias.numel()
        length = sum(p.numel() for p in self.length.parameters())
        idle = length if self.config.canvas == "eos" else 0
        return {
            "total": total,
            "vocabulary": vocabulary,
            "blocks": sum(p.numel() for p in self.blocks.parameters()),
            "length": length,
            "without_vocabulary": total - vocabulary - idle,
        }
