"""What the denoiser is made of, and what it makes of a vector before any token is read.

Contents: `DenoiserParts`: tables, conditioner, blocks, heads and closed-form priors of a config; the condition.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.diffusion.schedule import get_schedule
from unembed.model.backbones import make_blocks, make_conditioner, parts_of
from unembed.model.block import Block
from unembed.model.conditioning import Condition
from unembed.model.config import DenoiserConfig
from unembed.model.heads import LengthNetwork, TokenHead
from unembed.model.position_prior import PositionPrior
from unembed.model.prior import TokenPrior
from unembed.model.time import TimeModulation
from unembed.model.whitening import Whitening

_USED_NO, _USED_YES, _USED_UNTOLD = 0, 1, 2


def _gate(width: int, start: float) -> nn.Linear:
    """How much a prior counts at a row: the same everywhere at first, then learnt from the row's hidden state.

    It starts where a single number ended after eight minutes of training (docs/log.md).
    """
    gate = nn.Linear(width, 1)
    nn.init.zeros_(gate.weight)
    nn.init.constant_(gate.bias, start)
    return gate


class DenoiserParts(nn.Module):
    """The parts of a `Denoiser`, and its condition.

    Args:
        config: the shape.
        banned: (V,) bool, ids that are never output (special tokens); the end token is handled by the canvas.
    """

    banned: Tensor

    def __init__(self, config: DenoiserConfig, banned: Tensor | None = None) -> None:
        super().__init__()
        self.config = config
        c = config
        embedding_dim = c.embedding_dim or c.width
        self.whitening = Whitening(c.vector_dim)
        self.embedding = nn.Embedding(c.vocab_size, embedding_dim)
        nn.init.normal_(self.embedding.weight, std=0.05)
        if c.backbone == "bert":
            self.input_norm = nn.LayerNorm(c.width, eps=1e-12)
        elif not c.plain_embedding:
            self.embed = nn.Linear(embedding_dim, c.width)
        self.state = nn.Embedding(4, c.width)
        self.position = nn.Embedding(c.limit + 1 + self._shift, c.width)
        self.position_from_end = nn.Embedding(c.limit + 1, c.width) if c.canvas == "length" else None
        for table in (self.state, self.position, self.position_from_end):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02 if c.plain_embedding else 0.3)
        self.conditioner = make_conditioner(c, c.vector_dim)
        self.time = TimeModulation(c.layers, parts_of(c), c.width) if c.time_conditioning else None
        self.schedule = get_schedule(c.schedule)
        self.null = nn.Parameter(torch.zeros(c.vector_dim)) if c.null_vector else None
        self.blocks = make_blocks(c)
        self.head = TokenHead(c.width, embedding_dim, c.vocab_size)
        self.length = LengthNetwork(c.vector_dim, c.width, c.limit)
        self.token_prior = TokenPrior(c.vocab_size, c.vector_dim) if c.token_prior or c.candidates else None
        self.position_prior = PositionPrior(c.limit, c.vector_dim, c.vocab_size) if c.position_prior else None
        if c.token_prior:
            self.token_gate = _gate(c.width, 0.25)
        if c.position_prior:
            self.position_gate = _gate(c.width, 0.1)
        if c.candidates:
            self.candidate_score = nn.Linear(1, c.width)
            self.candidate_used = nn.Embedding(3, c.width)
        if banned is None:
            banned = torch.zeros(c.vocab_size, dtype=torch.bool)
            banned[[c.mask_id, c.bos_id, c.pad_id]] = True
        self.register_buffer("banned", banned.clone(), persistent=True)
        self.banned[c.eos_id] = False

    @property
    def _shift(self) -> int:
        """Where token 0 stands in the table of positions: BERT's texts begin behind [CLS], which causal rows feed."""
        return int(self.config.backbone == "bert")

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
        modulation, final, entry, memory = self.conditioner(z)
        if self.config.candidates and self.token_prior is not None:
            with torch.no_grad():
                scores = self.token_prior.scores(z).masked_fill(self.banned, -torch.inf)
                top = scores.topk(self.config.candidates, dim=-1)
                values = top.values - top.values.mean(-1, keepdim=True)
                values = values / values.std(-1, keepdim=True).clamp_min(1e-6)
            candidates, candidate_scores = top.indices, values
        else:
            candidates = torch.zeros(len(z), 0, dtype=torch.long, device=z.device)
            candidate_scores = z.new_zeros(len(z), 0)
        evidence = None
        if self.config.token_prior and self.token_prior is not None and not self.training:
            evidence = self.token_prior.scores(z, frequency=False)
        text = torch.arange(len(z), device=z.device)
        return Condition(z, modulation, final, entry, memory, candidates, candidate_scores, evidence, text, known)

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
            log p(n | vector), (B, limit), column 0 for n = 1.
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

    def _memory(self, condition: Condition, ids: Tensor | None, visible: Tensor | None) -> Tensor:
        memory = condition.memory
        if self.config.candidates:
            if ids is None or visible is None:
                used = torch.full_like(condition.candidates, _USED_UNTOLD)
            else:
                shown = ids.masked_fill(~visible, -1)
                used = (condition.candidates.unsqueeze(2) == shown.unsqueeze(1)).any(-1).long()
            rows = self._embed(condition.candidates) + self.candidate_used(used)
            rows = rows + self.candidate_score(condition.candidate_scores.unsqueeze(-1))
            memory = torch.cat((memory, F.layer_norm(rows, (self.config.width,)).to(memory.dtype)), dim=1)
        return memory

    def _embed(self, ids: Tensor, table: Tensor | None = None) -> Tensor:
        rows = F.embedding(ids, self.embedding.weight if table is None else table)
        if self.config.plain_embedding:
            return rows
        embedded: Tensor = self.embed(F.layer_norm(rows, (rows.shape[-1],)))
        return embedded

    def _enter(self, x: Tensor, condition: Condition) -> Tensor:
        """What the first block reads, of the sum of all embeddings."""
        if self.config.backbone != "bert":
            return x
        entered: Tensor = self.input_norm(x + condition.entry.unsqueeze(1))
        return entered

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
