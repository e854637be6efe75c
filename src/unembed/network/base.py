"""What the networks share: tables, heads, closed-form priors, and the calls that decoding and training make.

Contents: `Network`, and the position states `MASK`, `GIVEN`, `PREFIX`.

A network turns rows of tokens and the condition of a vector into hidden rows, and hidden rows into logits. `Denoiser`
fills masks, and goes left to right where it was trained to; `variants.autoregressive.Autoregressive` only the latter.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.network.block import Block
from unembed.network.conditioning import CausalState, Condition, Reading
from unembed.network.config import ModelConfig
from unembed.network.heads import LengthNetwork, TokenHead, prior_gate
from unembed.priors.token_prior import TokenPrior
from unembed.priors.whitening import Whitening

# State 2 marked visible tokens that may be wrong; nothing uses it now. Its row stays: every checkpoint has four.
MASK, GIVEN, PREFIX = 0, 1, 3


class Network(nn.Module):
    """Hidden rows of texts and vectors, and their logits.

    Modules are made in one order, before and after those of a subclass: the order fixes what a seed draws.

    Args:
        config: the shape.
    """

    banned: Tensor
    position: nn.Embedding
    blocks: nn.ModuleList
    head: TokenHead
    length: LengthNetwork
    token_prior: TokenPrior | None
    token_gate: nn.Linear

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = c = config
        embedding_dim = c.embedding_dim or c.width
        self.whitening = Whitening(c.vector_dim)
        self.embedding = nn.Embedding(c.vocab_size, embedding_dim)
        nn.init.normal_(self.embedding.weight, std=0.05)
        if not c.plain_embedding:
            self.embed = nn.Linear(embedding_dim, c.width)

    def _finish(self, block: type[Block], banned: Tensor | None) -> None:
        """Make blocks, heads and the prior; `banned` (V,) bool are ids that are never output, None the special ones."""
        c = self.config
        self.blocks = nn.ModuleList([block(c.width, c.heads, c.mlp or 4 * c.width, c.dropout) for _ in range(c.layers)])
        self.head = TokenHead(c.width, c.embedding_dim or c.width, c.vocab_size)
        self.length = LengthNetwork(c.vector_dim, c.width, c.max_length)
        self.token_prior = TokenPrior(c.vocab_size, c.vector_dim) if c.token_prior else None
        if c.token_prior:
            self.token_gate = prior_gate(c.width)
        if banned is None:
            banned = torch.zeros(c.vocab_size, dtype=torch.bool)
            banned[[c.mask_id, c.bos_id, c.pad_id]] = True
        self.register_buffer("banned", banned.clone(), persistent=True)
        self.banned[c.eos_id] = False

    @property
    def _stack(self) -> list[Block]:
        return cast(list[Block], list(self.blocks))

    # ------------------------------------------------------------------ what a network has of its own

    def condition(self, vectors: Tensor, dropped: Tensor | None = None) -> Condition:
        """Work out once what every pass needs to know of the vectors.

        Args:
            vectors: (B, d), as the encoder makes them.
            dropped: (B,) bool, rows that get the learnt null vector instead (config `null_vector`); None: no row.

        Returns:
            The condition of the B vectors.
        """
        raise NotImplementedError

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
        """Run the blocks.

        Args:
            ids: (B, n) token ids; the token under a mask is not read. In causal use, the tokens before each row.
            states: (B, n) MASK or GIVEN, or PREFIX in causal use.
            condition: of the B vectors.
            lengths: (B,) canvas lengths, positions from there on are padding; None when all rows have n.
            causal: rows look at earlier rows and the memory only.
            table: (K, embedding_dim) token embeddings that `rows` points into; None for the whole table. A training
                step gathers the few rows it needs once, so that their gradient is scattered once.
            rows: (B, n) rows of `table` that stand for `ids`.
            time: (B,) times that the masks were drawn at; None reads them off the share of masks. Only used with
                `time_conditioning`.

        Returns:
            (B, n, width) after the last norm.
        """
        raise NotImplementedError

    def start_causal(self, condition: Condition) -> CausalState:
        """Begin a left-to-right draft of each vector; feed `bos_id` first.

        Args:
            condition: of the B vectors.

        Returns:
            The state that `next_logits` takes.

        Raises:
            InputError: the network was not trained with causal rows.
        """
        raise NotImplementedError

    def next_logits(self, last: Tensor, state: CausalState) -> tuple[Tensor, CausalState]:
        """Feed one token a row and score the next.

        Args:
            last: (B,) ids of the tokens just chosen; `bos_id` at first.
            state: from `start_causal` or the last call; it is not changed.

        Returns:
            float32 logits (B, V), banned ids -inf, the end token allowed; and the state with the token taken in.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ vectors

    def unconditional(self) -> Condition:
        """Make the condition of a vector that says nothing, for guidance.

        Returns:
            One row: of the learnt null vector (config `null_vector`).
        """
        mean = self.whitening.mean.unsqueeze(0)
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

    def _evidence(self, z: Tensor) -> Tensor | None:
        """(B, V) log-odds of all tokens, worked out once for a decode; training scores the rows that it needs."""
        if self.token_prior is None or self.training:
            return None
        return self.token_prior.scores(z, frequency=False)

    # ------------------------------------------------------------------ logits

    def token_logits(
        self,
        hidden: Tensor,
        owner: Tensor,
        condition: Condition,
        used: Tensor | None = None,
        end: bool = True,
    ) -> Tensor:
        """Score all tokens at chosen rows, the token prior included.

        Training has its own way to the same logits, over a shortlist (`training/losses/rows.py`).

        Args:
            hidden: (R, width) rows of `hidden()`.
            owner: (R,) index of each row's vector in the condition.
            condition: of the vectors.
            used: (R, U) tokens that are in the text already, filled up with the end token, which has
                no class and so no score.
            end: whether the end token may be output.

        Returns:
            float32 (R, V); banned ids, and the end token unless `end`, are -inf.
        """
        logits: Tensor = self.head(hidden, self.embedding.weight)
        if self.token_prior is not None:
            evidence = condition.evidence
            if evidence is None:
                rows = self.token_prior.scores(condition.whitened, frequency=False)[owner]
            else:
                rows = evidence[condition.text[owner]]
            rows = condition.heed(rows, owner)
            if used is not None:
                rows = rows.scatter_(1, used, 0.0)
            logits = logits.addcmul(self.token_gate(hidden).float(), rows)
        # Few columns are banned: writing them costs far less than another pass over all of them.
        logits[:, self.banned.nonzero().flatten()] = -torch.inf
        if not end:
            logits[:, self.config.eos_id] = -torch.inf
        return logits

    def read(
        self,
        ids: Tensor,
        states: Tensor,
        condition: Condition,
        lengths: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Reading:
        """Run the blocks and keep the positions that are read.

        Args:
            ids: (B, n) token ids.
            states: (B, n) MASK or GIVEN.
            condition: of the B vectors.
            lengths: (B,) canvas lengths, or None when every canvas is n.
            rows: (B, n) bool, the positions to score; None scores all.

        Returns:
            What `scores` needs, R rows in row-major order.
        """
        hidden = self.hidden(ids, states, condition, lengths)
        chosen = torch.ones_like(ids, dtype=torch.bool) if rows is None else rows
        owner, column = chosen.nonzero(as_tuple=True)
        seen = states != MASK
        if lengths is not None:
            seen = seen & (torch.arange(ids.shape[1], device=ids.device) < lengths.unsqueeze(1))
        used = torch.where(seen, ids, self.config.eos_id)
        return Reading(hidden[owner, column], owner, column, used, condition)

    def scores(self, reading: Reading, part: slice = slice(None)) -> Tensor:
        """Score all tokens at some rows of a reading.

        Args:
            reading: from `read`.
            part: which of its rows.

        Returns:
            float32 (R, V), -inf as in `token_logits`; the end token is -inf where the canvas is "length".
        """
        owner = reading.owner[part]
        return self.token_logits(
            reading.hidden[part],
            owner,
            reading.condition,
            used=reading.used[owner],
            end=self.config.canvas == "eos",
        )

    def logits(
        self,
        ids: Tensor,
        states: Tensor,
        condition: Condition,
        lengths: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """`read` and `scores` in one.

        Args:
            ids, states, condition, lengths, rows: as `read`.

        Returns:
            float32 (R, V) in row-major order of `rows`, or (B, n, V) without `rows`.
        """
        scores = self.scores(self.read(ids, states, condition, lengths, rows))
        return scores.view(*ids.shape, -1) if rows is None else scores

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
