"""A plain autoregressive decoder of the denoiser's size, to race against: causal attention, the vector as a prefix.

Contents: `Autoregressive`.

The vector becomes `prefix_tokens` rows that come before the text and run through the blocks with it, as images do in
ClipCap (arXiv 2111.09734, section 3.1); nothing else depends on the vector. The blocks are the denoiser's own, with
norms and gates that are learnt once instead of made from the vector. What the two share, and the calls that drafts and
training make, is `base.Network`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unembed.errors import InputError
from unembed.network.base import Network
from unembed.network.block import Block
from unembed.network.conditioning import CausalState, Condition
from unembed.network.config import ModelConfig

_GATES = (2, 5)  # in the order that `block.Block.forward` names


class Autoregressive(Network):
    """Predict each token from those before it and a vector.

    Args:
        config: the shape, with backbone "autoregressive".
        banned: (V,) bool, ids that are never output.
    """

    def __init__(self, config: ModelConfig, banned: Tensor | None = None) -> None:
        super().__init__(config)
        self.position = nn.Embedding(config.max_length + 1, config.width)
        nn.init.normal_(self.position.weight, std=0.3)
        self._finish(Block, banned)
        self.prefix = nn.Linear(config.vector_dim, config.prefix_tokens * config.width)
        self.prefix_position = nn.Parameter(torch.randn(config.prefix_tokens, config.width) * 0.3)
        gains = torch.zeros(config.layers, 6, config.width)
        gains[:, _GATES] = 1.0
        self.gains = nn.Parameter(gains)

    def condition(self, vectors: Tensor, dropped: Tensor | None = None) -> Condition:
        """Turn raw encoder vectors (B, d) into a `Condition`: prefix rows, and the token prior's evidence."""
        z = self._scaled(vectors)
        rows = self.prefix(z).view(len(z), self.config.prefix_tokens, self.config.width)
        nothing = z.new_zeros(len(z), 0)
        return Condition(
            whitened=z,
            modulation=nothing,
            final=nothing,
            memory=F.layer_norm(rows, (self.config.width,)) + self.prefix_position,
            evidence=self._evidence(z),
            text=torch.arange(len(z), device=z.device),
        )

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
        """Run the blocks over prefix and text at once, as training does.

        Args:
            ids: (B, n) the token before each row, the begin token first.
            states: not read; every row holds a token.
            condition: of the B vectors.
            lengths: not read; what follows a row is not seen.
            causal: must be true.
            table: see `Network.hidden`.
            rows: see `Network.hidden`.
            time: not read; nothing is masked.

        Returns:
            (B, n, width) after the last norm; row i predicts token i.

        Raises:
            InputError: masks are to be filled.
        """
        if not causal:
            raise InputError(
                "This checkpoint is autoregressive, so it cannot fill masks.", "Use left-to-right, and no mask rates."
            )
        n, before = ids.shape[1], condition.memory.shape[1]
        text = self._embed(ids if rows is None else rows, table) + self.position.weight[:n]
        x = torch.cat((condition.memory.to(text.dtype), text), dim=1)
        mask = torch.ones(before + n, before + n, dtype=torch.bool, device=ids.device).tril()
        for gains, block in zip(self.gains, self._stack, strict=True):
            x, _ = block(x, gains.unsqueeze(0), None, mask)
        return F.layer_norm(x[:, before:], (self.config.width,))

    def start_causal(self, condition: Condition) -> CausalState:
        """Run the prefix through the blocks and keep its keys and values; feed `bos_id` next."""
        x, past = condition.memory, []
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        for gains, block in zip(self.gains, self._stack, strict=True):
            x, kv = block(x, gains.unsqueeze(0), None, mask)
            past.append(kv)
        nothing = torch.zeros(len(condition), 0, dtype=torch.long, device=x.device)
        return CausalState(condition, past, 0, nothing)

    def next_logits(self, last: Tensor, state: CausalState) -> tuple[Tensor, CausalState]:
        """Feed one token a row and score the next; see `Network.next_logits`."""
        ids = last.unsqueeze(1)
        x = self._embed(ids) + self.position.weight[state.index]
        past = []
        for gains, block, before in zip(self.gains, self._stack, state.past, strict=True):
            x, kv = block(x, gains.unsqueeze(0), before)
            past.append(kv)
        hidden = F.layer_norm(x, (self.config.width,))[:, 0]
        owner = torch.arange(len(last), device=last.device)
        tokens = torch.cat((state.tokens, ids), dim=1)
        scores = self.token_logits(hidden, owner, state.condition, used=tokens)
        return scores, CausalState(state.condition, past, state.index + 1, tokens)
