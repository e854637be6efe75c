"""Better texts than a draft, by the denoiser with a corrector: left-to-right beams that see the draft.

Contents: `corrections`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unembed.network.conditioning import Condition
from unembed.network.corrector import Corrector
from unembed.network.denoiser import Denoiser
from unembed.network.precision import autocast

Found = list[list[tuple[tuple[int, ...], float]]]


def corrections(
    corrector: Corrector,
    denoiser: Denoiser,
    condition: Condition,
    drafts: Sequence[tuple[int, ...]],
    draft_vectors: Tensor,
    beam: int = 8,
) -> tuple[Found, list[int]]:
    """Write each text anew, seeing a draft of it and what the draft's vector lacks.

    Args:
        corrector: of this denoiser.
        denoiser: trained with causal rows.
        condition: of the D drafts' targets, one row a draft.
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
        return _write(denoiser, changed, beam)


def _write(denoiser: Denoiser, condition: Condition, beam: int) -> tuple[Found, list[int]]:
    """The `beam` best texts of each row of a condition; hypotheses live in slots (D, beam), dead ones at -inf."""
    c, device, count = denoiser.config, condition.whitened.device, len(condition)
    beam = min(beam, c.vocab_size)
    total = torch.full((count, beam), -torch.inf, device=device)
    total[:, 0] = 0
    written = torch.zeros(count, beam, 0, dtype=torch.long, device=device)
    alive = torch.arange(count, device=device) * beam  # flat slots, in the order of the state's rows
    state = denoiser.start_causal(condition)
    last = torch.full_like(alive, c.bos_id)
    found: Found = [[] for _ in range(count)]
    spent = torch.zeros(count, dtype=torch.long, device=device)
    for step in range(c.max_length):
        logits, state = denoiser.next_logits(last, state)
        spent += torch.bincount(alive // beam, minlength=count)
        if step == 0:
            logits[:, c.eos_id] = -torch.inf
        values, tokens = logits.topk(min(beam + 1, logits.shape[1]), dim=1)
        values = values - logits.logsumexp(1, keepdim=True)
        options = values.shape[1]
        score = torch.full((count * beam, options), -torch.inf, device=device)
        score[alive] = total.flatten()[alive].unsqueeze(1) + values
        token = torch.full_like(score, c.eos_id, dtype=torch.long)
        token[alive] = tokens
        total, best = score.view(count, -1).topk(beam, dim=1)
        parent, token = best // options, token.view(count, -1).gather(1, best)
        written = written.gather(1, parent.unsqueeze(2).expand(-1, -1, step))
        ended = total.isfinite() & (token == c.eos_id)
        for row, slot in ended.nonzero().tolist():
            found[row].append((tuple(written[row, slot].tolist()), float(total[row, slot])))
        written = torch.cat((written, token.unsqueeze(2)), dim=2)
        total = total.masked_fill(ended, -torch.inf)
        if step + 1 == c.max_length:
            for row, slot in total.isfinite().nonzero().tolist():
                found[row].append((tuple(written[row, slot].tolist()), float(total[row, slot])))
            break
        for row in range(count):  # a hypothesis only loses: what is below `beam` finished ones cannot come in any more
            if len(found[row]) >= beam:
                worst = sorted((score for _, score in found[row]), reverse=True)[beam - 1]
                total[row] = total[row].masked_fill(total[row] <= worst, -torch.inf)
        place = torch.full((count * beam,), -1, dtype=torch.long, device=device)
        place[alive] = torch.arange(len(alive), device=device)
        source = (torch.arange(count, device=device).unsqueeze(1) * beam + parent).flatten()
        alive = total.isfinite().flatten().nonzero().flatten()
        if not len(alive):
            break
        state = state.select(place[source[alive]])
        last = token.flatten()[alive]
    return [sorted(part, key=lambda item: -item[1])[:beam] for part in found], spent.tolist()
