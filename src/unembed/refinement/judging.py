"""How sure the network is of each token of a text that no decode has written.

Contents: `judge`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unembed.network.denoiser import GIVEN, MASK, Denoiser
from unembed.network.precision import autocast

_TEXTS = 64


def judge(
    denoiser: Denoiser, vectors: Tensor, drafts: Sequence[tuple[int, tuple[int, ...]]]
) -> list[tuple[float, ...]]:
    """Probability of each token given the tokens at positions of the other parity; two passes a draft.

    Args:
        denoiser: the network; one that fills no masks is sure of nothing.
        vectors: (T, d) targets.
        drafts: the row of its target and its ids for each draft.
    """
    out: list[tuple[float, ...]] = [(0.0,) * len(ids) for _, ids in drafts]
    config = denoiser.config
    if not config.fills_masks or config.canvas != "length":
        return out
    device = denoiser.banned.device
    order = sorted(range(len(drafts)), key=lambda i: len(drafts[i][1]))
    with torch.inference_mode(), autocast(denoiser):
        condition = denoiser.condition(vectors.to(device, torch.float32))
        for start in range(0, len(order), _TEXTS):
            part = order[start : start + _TEXTS]
            n = len(drafts[part[-1]][1])
            ids = torch.tensor([[*drafts[i][1], *[config.pad_id] * (n - len(drafts[i][1]))] for i in part])
            ids, lengths = ids.to(device), torch.tensor([len(drafts[i][1]) for i in part], device=device)
            place = torch.arange(n, device=device)
            chosen = condition.select(torch.tensor([drafts[i][0] for i in part], device=device))
            sure = torch.zeros(ids.shape, device=device)
            for parity in (0, 1):
                hidden = (place % 2 == parity) & (place < lengths.unsqueeze(1))
                if not hidden.any():
                    continue
                shown = ids.masked_fill(hidden, config.mask_id)
                states = torch.where(hidden, MASK, GIVEN)
                scores = denoiser.logits(shown, states, chosen, lengths, hidden)
                own = torch.log_softmax(scores, dim=-1).gather(1, ids[hidden].unsqueeze(1)).squeeze(1)
                sure[hidden] = own.exp().float()
            for row, i in zip(sure.tolist(), part, strict=True):
                out[i] = tuple(row[: len(drafts[i][1])])
    return out
