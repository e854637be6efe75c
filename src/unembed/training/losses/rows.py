"""What one batch of one length teaches: masks, left-to-right rows.

Contents: `Rows` (a prepared share of a batch), `prepare_masked`, `masked_rows`, `prepare_causal`, `ScoredColumns`,
`full_columns`, `rows_loss`.

Mask counts follow `diffusion.masking`: k uniform over 1..n and stratified over the batch, exactly k masked, weight n/k
for the bound; or times are drawn, and each token is masked on its own (2602.11047). In causal rows
the input is the text moved by one and the end token is a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.diffusion.bound import count_weights, per_token
from unembed.diffusion.masking import draw_counts, draw_times, mask_by_schedule, mask_exactly
from unembed.diffusion.schedule import Schedule
from unembed.network.base import GIVEN, MASK, PREFIX, Network
from unembed.network.conditioning import Condition
from unembed.training.losses.cross_entropy import linear_cross_entropy


@dataclass
class Rows:
    """Inputs and targets of one pass.

    Attributes:
        ids: (B, n) what the network is shown.
        states: (B, n) position states.
        owner: (R,) text of each scored row.
        column: (R,) position of each scored row.
        targets: (R,) true tokens there.
        weights: (R,) weight of each row in the loss.
        causal: whether rows look to the left only.
        time: (B,) times that the masks were drawn at, None where counts were drawn.
        scale: `tokens` of `bound.per_token`: the number of tokens with times, whose weights are right on average only;
            None with counts.
    """

    ids: Tensor
    states: Tensor
    owner: Tensor
    column: Tensor
    targets: Tensor
    weights: Tensor
    causal: bool
    time: Tensor | None = None
    scale: float | None = None

    def visible(self, filler: int) -> Tensor:
        """Tokens that each scored row may look at, (R, n); `filler` where it may not."""
        shown = self.ids[self.owner]
        if self.causal:
            seen = torch.arange(shown.shape[1], device=shown.device) <= self.column.unsqueeze(1)
        else:
            seen = self.states[self.owner] != MASK
        return torch.where(seen, shown, filler)

    def to(self, device: torch.device) -> Rows:
        """Return the rows on a device."""
        names = ("ids", "states", "owner", "column", "targets", "weights")
        moved = {n: getattr(self, n).to(device, non_blocking=True) for n in names}
        time = None if self.time is None else self.time.to(device, non_blocking=True)
        return Rows(**moved, causal=self.causal, time=time, scale=self.scale)

    def normalised(self, share: float) -> Tensor:
        """The weights, scaled so that the loss is nats per token times `share`."""
        return per_token(self.weights, self.scale, share)


def extend_with_end(ids: Tensor, canvas: int, eos_id: int) -> Tensor:
    """Fill each row up to `canvas` positions with end tokens: (B, n) -> (B, canvas)."""
    return F.pad(ids, (0, canvas - ids.shape[1]), value=eos_id)


def prepare_masked(ids: Tensor, generator: torch.Generator, loss_weight: str, schedule: Schedule | None = None) -> Rows:
    """Mask texts of one canvas length.

    Args:
        ids: (B, n) true tokens.
        generator: of the masks.
        loss_weight: of each masked token: "bound" (n/k, or the schedule's weight), "flat" (1) or "printed" (1/t).
        schedule: draw times and mask by this schedule; None draws counts. A text may then have no mask at all.
    """
    batch, n = ids.shape
    own = torch.full((batch,), n)
    time = None
    if schedule is None:
        counts = draw_counts(own, generator)
        masked = mask_exactly(own, n, counts, generator)
        weight = count_weights(own, counts) if loss_weight == "bound" else torch.ones(batch)
    else:
        t = draw_times(batch, generator)
        masked = mask_by_schedule(own, n, t, schedule, generator)
        by_name = {"bound": schedule.weight(t), "printed": 1.0 / t, "flat": torch.ones_like(t)}
        time, weight = t.float(), by_name[loss_weight].float()
    return masked_rows(ids, masked, weight, time, None if schedule is None else float(batch * n))


def masked_rows(
    ids: Tensor, masked: Tensor, weight: Tensor, time: Tensor | None = None, scale: float | None = None
) -> Rows:
    """Rows of texts (B, n) whose places `masked` (B, n) are learnt with the weight (B,) of their text."""
    owner, column = masked.nonzero(as_tuple=True)  # (R,) each
    states = torch.where(masked, MASK, GIVEN)
    return Rows(ids, states, owner, column, ids[owner, column], weight[owner], False, time, scale)


def prepare_causal(ids: Tensor, bos_id: int, eos_id: int) -> Rows:
    """Shift texts by one: row i sees tokens before i and predicts token i, the last the end token."""
    batch, n = ids.shape
    shown = F.pad(ids, (1, 0), value=bos_id)
    targets = F.pad(ids, (0, 1), value=eos_id)
    owner = torch.arange(batch).repeat_interleave(n + 1)
    column = torch.arange(n + 1).repeat(batch)
    weights = torch.ones(batch * (n + 1))
    return Rows(shown, torch.full_like(shown, PREFIX), owner, column, targets.reshape(-1), weights, causal=True)


@dataclass
class ScoredColumns:
    """Columns of the training softmax.

    Attributes:
        tokens: (K,) token ids, or None for the whole vocabulary.
        correction: (K,) added to the logits (log-q correction; -inf for ids that cannot be output).
        place: (V,) column of each token that is in.
    """

    tokens: Tensor | None
    correction: Tensor
    place: Tensor

    def to(self, device: torch.device) -> ScoredColumns:
        """Return the columns on a device."""
        tokens = None if self.tokens is None else self.tokens.to(device)
        return ScoredColumns(tokens, self.correction.to(device), self.place.to(device))


def full_columns(denoiser: Network, causal: bool) -> ScoredColumns:
    """All tokens that can be output; the end token only where the canvas or the causal order knows it."""
    off = denoiser.banned.clone()
    off[denoiser.config.eos_id] = denoiser.config.canvas == "length" and not causal
    correction = torch.zeros(len(off), device=off.device).masked_fill(off, -torch.inf)
    return ScoredColumns(None, correction, torch.arange(len(off), device=off.device))


def rows_loss(
    denoiser: Network,
    condition: Condition,
    rows: Rows,
    columns: ScoredColumns,
    fitted: tuple[Tensor, Tensor] | None = None,
    table: Tensor | None = None,
    more: Sequence[tuple[Tensor, Tensor]] = (),
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropy of the scored rows.

    Args:
        denoiser: the network.
        condition: of the batch's vectors, in the rows' order.
        rows: inputs and targets.
        columns: of the softmax.
        fitted: true tokens (B, n), and (B,) bool: which of these texts the closed-form parts were fitted on. Those are
            taken out of the token prior's class means (leave-one-out); None where it was fitted on none of them.
        table: (K, E) embeddings of `columns.tokens`, gathered once a step; every shown token is among them.
        more: further evidence of each text: a factor (B,) of the token prior's gate, which learns, and scores (B, K).

    Returns:
        The differentiable sum of weight x cross-entropy, and the cross-entropies (R,).
    """
    config, n = denoiser.config, rows.ids.shape[1]
    places = None if table is None else columns.place[rows.ids]
    drawn = {} if rows.time is None else {"time": rows.time}
    hidden = denoiser.hidden(rows.ids, rows.states, condition, None, rows.causal, table, places, **drawn)
    picked = hidden.reshape(-1, hidden.shape[-1])[rows.owner * n + rows.column]
    tokens = columns.tokens
    if table is not None:
        weight = table
    else:
        weight = denoiser.embedding.weight if tokens is None else denoiser.embedding(tokens)
    bias = (denoiser.head.bias if tokens is None else denoiser.head.bias[tokens]) + columns.correction
    targets = columns.place[rows.targets]
    gates: list[tuple[Tensor, Tensor, Tensor | None, Tensor | None]] = []
    if denoiser.token_prior is not None:
        present = None
        if fitted is not None:
            texts, known = fitted
            present = torch.zeros(len(texts), len(bias), dtype=torch.bool, device=texts.device)
            present[torch.arange(len(texts), device=texts.device).unsqueeze(1), columns.place[texts]] = True
            present &= known.unsqueeze(1)
        with torch.no_grad(), torch.autocast(rows.ids.device.type, enabled=False):
            scores = denoiser.token_prior.scores(condition.whitened, tokens, frequency=False, present=present)
        scores = condition.heed(scores)
        used = columns.place[rows.visible(config.eos_id)]
        gate = denoiser.token_gate(picked).squeeze(1)
        gates.append((gate, scores, rows.owner, used))
        gates += [(gate * factor[rows.owner], further, rows.owner, used) for factor, further in more]
    return linear_cross_entropy(denoiser.head.project(picked), weight, bias, targets, rows.weights, gates)
