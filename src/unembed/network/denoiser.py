"""The denoiser: a bidirectional transformer that fills masks, conditioned on a vector (arXiv 2602.11047).

Contents: `Denoiser`, and the position states `MASK`, `GIVEN`, `PREFIX`.

Row i of the network always predicts token i. In bidirectional use a row holds its own token or a mask; in causal use
it holds the token before (`PREFIX` state), so that one set of weights serves both orders. Every
part beyond the plain transformer is a switch of the config.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.errors import InputError
from unembed.network.block import modulate
from unembed.network.conditioning import Condition
from unembed.network.config import ModelConfig
from unembed.network.parts import DenoiserParts
from unembed.network.reading import CausalState, Reading
from unembed.network.row_parts import row_parts
from unembed.network.time_modulation import time_of

__all__ = ["GIVEN", "MASK", "PREFIX", "CausalState", "Denoiser", "ModelConfig", "Reading"]

# State 2 marked visible tokens that may be wrong; nothing uses it now. Its row stays: every checkpoint has four.
MASK, GIVEN, PREFIX = 0, 1, 3


class Denoiser(DenoiserParts):
    """Predict masked tokens from visible ones and a vector.

    Args:
        config: the shape.
        banned: (V,) bool, ids that are never output (special tokens); the end token is handled by the canvas.
    """

    # ------------------------------------------------------------------ hidden rows

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
            (B, n, width) after the last modulated norm.
        """
        n = ids.shape[1]
        position = torch.arange(n, device=ids.device)
        x = self._embed(ids if rows is None else rows, table) * (states != MASK).unsqueeze(-1)
        x = x + self.state(states) + self.position(position)
        if self.position_from_end is not None and not causal:
            if lengths is None:
                x = x + self.position_from_end(n - 1 - position)
            else:
                x = x + self.position_from_end((lengths.unsqueeze(1) - 1 - position).clamp_min(0))
        inside = None if lengths is None else position < lengths.unsqueeze(1)
        memory = condition.memory
        m = memory.shape[1]
        mask = None
        if causal:
            mask = torch.ones(n, m + n, dtype=torch.bool, device=ids.device).tril(m)
        elif inside is not None:
            mask = F.pad(inside, (m, 0), value=True)[:, None, None, :]
        modulation = condition.modulation
        if self.time is not None:
            t = time_of(states == MASK, None if causal else lengths, self.schedule) if time is None else time
            modulation = modulation + self.time(t)
        for i, block in enumerate(self._stack):
            if condition.draft is not None:
                x = condition.draft.read(i, x)
            past = block.attention.memory(memory) if m else None
            x, _ = block(x, modulation[:, i], past, mask)
        return modulate(F.layer_norm(x, (self.config.width,)), condition.final[:, 0], condition.final[:, 1])

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
            used: (R, U) tokens that are in the text already (`prior_once`), filled up with the end token, which has
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
            if used is not None and self.config.prior_once:
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

    # ------------------------------------------------------------------ left to right

    def start_causal(self, condition: Condition) -> CausalState:
        """Begin a left-to-right draft of each vector; feed `bos_id` first.

        Args:
            condition: of the B vectors.

        Returns:
            The state that `next_logits` takes.

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
        """Feed one token a row and score the next.

        Args:
            last: (B,) ids of the tokens just chosen; `bos_id` at first.
            state: from `start_causal` or the last call; it is not changed.

        Returns:
            float32 logits (B, V), banned ids -inf, the end token allowed; and the state with the token taken in.
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
