"""The loss of a batch on the device: rows, columns, network, evidence and head put together.

Contents: `DeviceLoss`, `attention_bias`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.network.base import MASK
from unembed.network.block import modulate
from unembed.network.denoiser import Denoiser
from unembed.training.device.columns import NEVER, DeviceColumns, Drawn, Evidence, first_of_each
from unembed.training.device.device_rows import DeviceRows, draw_rows, most_scored
from unembed.training.device.kernels import Kernels, chunk_of, head_loss
from unembed.training.recipes.recipe_parts import ObjectivePart

_UNSEEN = -30000.0  # finite in bf16


def attention_bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask, made once for all blocks: (B, 1, w, M + w) from (B, w, M + w) bool.

    Rows are stored a multiple of 8 apart, as the fused kernels want them; they would copy the mask in every block.
    """
    width = allowed.shape[-1]
    store = torch.zeros(*allowed.shape[:-1], -(-width // 8) * 8, dtype=dtype, device=allowed.device)
    return store[..., :width].masked_fill_(~allowed, _UNSEEN).unsqueeze(1)


class DeviceLoss:
    """Turn a batch of one width into a loss.

    Nothing here reads a value of the device, and every shape follows from those of the batch.

    Args:
        denoiser: the network, on the device; its token prior is read at the first batch.
        part: what is learnt: the share left to right, the columns, the weight of the lengths.
        always: (V,) bool, tokens that always have a column.
        precision: "bf16" (autocast) or "fp32".
        kernels: of block and head.

    Attributes:
        positions, cells: places that went through the blocks, and logits, since they were last set to zero.
    """

    def __init__(
        self, denoiser: Denoiser, part: ObjectivePart, always: Tensor, precision: str, kernels: Kernels
    ) -> None:
        self.denoiser, self.part, self.kernels = denoiser, part, kernels
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        allowed = ~denoiser.banned
        count = part.shortlist_frequent + part.shortlist_sampled if part.shortlist_frequent else len(allowed)
        self.columns = DeviceColumns(always.to(allowed.device), allowed, count)
        self.positions = self.cells = 0
        self._evidence: Evidence | None = None

    @property
    def evidence(self) -> Evidence:
        """The token prior as tensors; made when first asked for, when a resumed run has its state."""
        if self._evidence is None:
            prior = self.denoiser.token_prior
            assert prior is not None
            self._evidence = Evidence(prior, self.denoiser.head.project.out_features, self.dtype)
        return self._evidence

    def causal(self, texts: int) -> int:
        """How many of `texts` texts are read left to right."""
        return round(self.part.causal_share * texts)

    def draw(self, ids: Tensor, length: Tensor) -> DeviceRows:
        """Draw the masks of a batch; see `draw_rows`."""
        config = self.denoiser.config
        return draw_rows(ids, length, self.causal(len(ids)), config.bos_id, config.eos_id)

    def wanted(self, rows: DeviceRows) -> Tensor:
        """(R,) tokens of a batch that must have a column: all that is shown, the end token among them."""
        return torch.cat((rows.text.reshape(-1), rows.shown.reshape(-1)))

    def __call__(
        self,
        ids: Tensor,
        length: Tensor,
        vectors: Tensor,
        full: Tensor,
        known: Tensor,
    ) -> Tensor:
        """Return the loss (): nats a scored token, each order by its share of texts, and the lengths' loss on top.

        It is not finite where the batch has more tokens than there are columns, so that the step is left out.

        Args:
            ids: (B, n) tokens; what follows a text may be anything.
            length: (B,) tokens of each text.
            vectors: (B, d) of these tokens, as the encoder makes them.
            full: (B, d) vectors of the whole texts, which `ids` may be a part of.
            known: (B,) bool, texts whose whole vectors the token prior was fitted on.
        """
        rows = self.draw(ids, length)
        drawn = self.columns.draw(self.wanted(rows))
        return self.of_rows(rows, drawn, vectors, full, known)

    def of_rows(self, rows: DeviceRows, drawn: Drawn, vectors: Tensor, full: Tensor, known: Tensor) -> Tensor:
        """The loss of rows and columns that are drawn already; see `__call__`."""
        d = self.denoiser
        z = d._scaled(vectors)  # (B, d) float32
        table = d.embedding.weight
        if len(drawn.tokens) < len(table):
            table = table.index_select(0, drawn.tokens)  # once a step, so that its gradient is scattered once
        with torch.autocast(z.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            hidden = self._hidden(rows, z, table, drawn.place)
            loss = self._head(rows, drawn, hidden, table, z, d._scaled(full), known)
        by_length = F.nll_loss(d.length(z), rows.length - 1)
        loss = loss + self.part.length_weight * by_length
        # Times, so that the gradient is not finite either.
        return loss * torch.where(drawn.enough, 1.0, torch.nan)

    def _hidden(self, rows: DeviceRows, z: Tensor, table: Tensor, place: Tensor) -> Tensor:
        """Run the blocks, as `Denoiser.hidden` does for one order: (B w, width)."""
        d = self.denoiser
        batch, w = rows.text.shape
        position = torch.arange(w, device=z.device)
        modulation, final, memory = d.conditioner(z)
        x = d._embed(place[rows.shown], table) * (rows.states != MASK).unsqueeze(-1)
        x = x + d.state(rows.states) + d.position(position)
        if d.position_from_end is not None:  # places count from the end too, where the length is known
            back = (rows.length[rows.causal :].unsqueeze(1) - 1 - position).clamp_min(0)
            x = torch.cat((x[: rows.causal], x[rows.causal :] + d.position_from_end(back)))
        seen = F.pad(rows.allowed, (memory.shape[1], 0), value=True)  # the memory is seen from everywhere
        bias = attention_bias(seen, self.dtype)
        for i, block in enumerate(d._stack):
            x = self.kernels.block(block, x, modulation[:, i], memory, bias)
        self.positions += batch * w
        hidden = modulate(F.layer_norm(x, (d.config.width,)), final[:, 0], final[:, 1])
        return hidden.reshape(batch * w, -1)

    def _head(
        self, rows: DeviceRows, drawn: Drawn, hidden: Tensor, table: Tensor, z: Tensor, full: Tensor, known: Tensor
    ) -> Tensor:
        d, evidence = self.denoiser, self.evidence
        batch, w = rows.text.shape
        # A fixed number of rows: the scored ones in their order, then others of weight 0.
        least = min(batch * w, most_scored(batch, w - 1, rows.causal))
        chunk = chunk_of(least, len(drawn.tokens), z.device.type)
        count = -(-least // chunk) * chunk
        order = rows.scored.reshape(-1).to(torch.int8).argsort(descending=True, stable=True)
        at = F.pad(order, (0, max(0, count - batch * w)))[:count]
        weights = F.pad(self._weights(rows).index_select(0, at[: batch * w]), (0, max(0, count - batch * w)))
        owner, column = at // w, at % w
        picked = hidden.index_select(0, at)
        gate = d.token_gate(picked).float()  # (R, 1)
        projected = d.head.project(picked)
        with torch.autocast(z.device.type, enabled=False):
            correction = self._corrections(rows, z, full, known, owner, column)
            left = (owner < rows.causal).unsqueeze(1)
            end = torch.where(left, 0.0, NEVER)  # with masks the length is known: no end token
            added = torch.cat((gate * correction, end), 1)
            columns = F.pad(rows.text, (0, 1), value=d.config.eos_id)[owner]
            extra = evidence.rows(gate, z[owner])
            self.cells += count * len(drawn.tokens)
            return head_loss(
                torch.cat((projected, extra.to(projected.dtype)), 1),
                table,
                d.head.bias.index_select(0, drawn.tokens) + drawn.correction,
                added,
                evidence.frozen[drawn.tokens],
                drawn.place[columns],
                drawn.place[rows.text.reshape(-1)[at]],
                weights,
                chunk,
                self.kernels.chunk,
            )

    def _weights(self, rows: DeviceRows) -> Tensor:
        """(B w,) weights of all places: each order adds up to its share of texts, evenly over what it scores."""
        batch, causal = len(rows.text), rows.causal
        parts = []
        for part, share in ((slice(0, causal), causal / batch), (slice(causal, batch), 1 - causal / batch)):
            scored = rows.scored[part]
            parts.append(scored * (share / scored.sum().clamp_min(1)))
        return torch.cat(parts).reshape(-1)

    @torch.no_grad()
    def _corrections(
        self, rows: DeviceRows, z: Tensor, full: Tensor, known: Tensor, owner: Tensor, column: Tensor
    ) -> Tensor:
        """What the prior's score of each token of a row's text must be changed by, before the gate: (R, w).

        A token that is in a text twice is corrected at its first place.
        """
        text, inside, causal = rows.text, rows.inside, rows.causal
        plain, right = self.evidence.of_own(z, text, full, known)  # (B, w) each
        first = first_of_each(text, inside)
        # With masks a token is seen where any of its places is; left to right where its first place is behind.
        given = inside[causal:] & ~rows.masked
        same = text[causal:].unsqueeze(2) == text[causal:].unsqueeze(1)  # (m, w, w)
        seen = (same & given.unsqueeze(1)).any(2)  # (m, w)
        before = torch.arange(text.shape[1], device=text.device) < column.unsqueeze(1)  # (R, w)
        left = (owner < causal).unsqueeze(1)
        used = torch.where(left, before, F.pad(seen, (0, 0, causal, 0))[owner])
        return (torch.where(used, 0.0, right[owner]) - plain[owner]) * first[owner]
