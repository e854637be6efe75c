"""Better texts than a draft, by the denoiser with a corrector: left-to-right beams that see the draft.

Contents: `corrections`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unembed.decoding.causal.beams import Texts
from unembed.decoding.causal.writer import likeliest_options, write_texts
from unembed.network.base import Network
from unembed.network.conditioning import Condition
from unembed.network.corrector import Corrector
from unembed.network.precision import autocast


def corrections(
    corrector: Corrector,
    denoiser: Network,
    condition: Condition,
    drafts: Sequence[tuple[int, ...]],
    draft_vectors: Tensor,
    beam: int = 8,
) -> tuple[Texts, list[int]]:
    """Write each text anew, seeing a draft of it and what the draft's vector lacks.

    Args:
        corrector: of this denoiser.
        denoiser: trained with causal rows.
        condition: of the D drafts' targets, one row per draft.
        drafts: D drafts of at least one token.
        draft_vectors: (D, d) their vectors, as the encoder makes them.
        beam: hypotheses kept of each draft; 1 is greedy.

    Returns:
        For each draft at most `beam` pairs (ids, log-probability with the end), likeliest first, the draft itself
        perhaps among them; and the passes that each draft took.
    """
    if not drafts:
        return [], []
    device = denoiser.banned.device
    lengths = torch.tensor([len(draft) for draft in drafts], device=device)
    ids = torch.zeros(len(drafts), int(lengths.max()), dtype=torch.long, device=device)
    for row, draft in enumerate(drafts):
        ids[row, : len(draft)] = torch.tensor(draft, device=device)
    with torch.inference_mode(), autocast(denoiser):
        changed = corrector(condition, ids, lengths, draft_vectors.to(device).float())
    return write_texts(denoiser, changed, beam, likeliest_options, make_room=True)
