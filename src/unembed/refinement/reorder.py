"""The same words in another order: left-to-right beams that may only use up a draft's own tokens.

Contents: `orderings`.

Drafts hold most of the right words long before their order is right, and single moves cannot reach another order. The
causal half of the denoiser can: its beam is restricted to the tokens of the draft that are still unused, so that every
hypothesis ends as a permutation of the draft.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from unembed.network.conditioning import Condition
from unembed.network.denoiser import Denoiser
from unembed.network.precision import autocast


def orderings(
    denoiser: Denoiser, condition: Condition, drafts: Sequence[tuple[int, ...]], beam: int = 8
) -> tuple[list[list[tuple[tuple[int, ...], float]]], list[int]]:
    """Find likely orders of each draft's tokens.

    Args:
        denoiser: trained with causal rows.
        condition: of the D drafts' texts, one row a draft.
        drafts: D drafts of at least one token.
        beam: hypotheses kept of each draft.

    Returns:
        For each draft at most `beam` pairs (ids, log-probability with the end), likeliest first; and the passes that
        each draft took.
    """
    if not drafts:
        return [], []
    with torch.inference_mode(), autocast(denoiser):
        return _search(denoiser, condition, drafts, beam)


def _search(
    denoiser: Denoiser, condition: Condition, drafts: Sequence[tuple[int, ...]], beam: int
) -> tuple[list[list[tuple[tuple[int, ...], float]]], list[int]]:
    device = denoiser.banned.device
    bags = [Counter(draft) for draft in drafts]
    width = max(len(bag) for bag in bags)
    words = torch.zeros(len(drafts), width, dtype=torch.long, device=device)
    stock = torch.zeros(len(drafts), width, dtype=torch.long, device=device)
    for row, bag in enumerate(bags):
        words[row, : len(bag)] = torch.tensor(list(bag), device=device)
        stock[row, : len(bag)] = torch.tensor(list(bag.values()), device=device)
    sizes = [len(draft) for draft in drafts]
    found: list[list[tuple[tuple[int, ...], float]]] = [[] for _ in drafts]
    passes = [0] * len(drafts)
    # One row a hypothesis: its draft, what is left of its bag, what it has written, its log-probability.
    owner = torch.arange(len(drafts), device=device)
    state = denoiser.start_causal(condition)
    last = torch.full_like(owner, denoiser.config.bos_id)
    left = stock.clone()
    written = torch.zeros(len(drafts), 0, dtype=torch.long, device=device)
    total = torch.zeros(len(drafts), device=device)
    for step in range(max(sizes) + 1):
        logits, state = denoiser.next_logits(last, state)
        for row in owner.tolist():
            passes[row] += 1
        log_prob = torch.log_softmax(logits, dim=-1)
        done = torch.tensor([sizes[row] == step for row in owner.tolist()], device=device)
        for row in done.nonzero().flatten().tolist():
            end = (
                float(log_prob[row, denoiser.config.eos_id]) if sizes[owner[row]] < denoiser.config.max_length else 0.0
            )
            ids = tuple(written[row].tolist())
            found[int(owner[row])].append((ids, float(total[row]) + end))
        going = (~done).nonzero().flatten()
        if not len(going):
            break
        scores = log_prob[going].gather(1, words[owner[going]]).masked_fill(left[going] == 0, -torch.inf)
        scores = scores + total[going].unsqueeze(1)
        parent, word = _best_of_each(scores, owner[going], beam)
        total = scores[parent, word]
        parent = going[parent]
        owner = owner[parent]
        left = left[parent].clone()
        left[torch.arange(len(parent), device=device), word] -= 1
        last = words[owner, word]
        written = torch.cat((written[parent], last.unsqueeze(1)), dim=1)
        state = state.select(parent)
    return [sorted(part, key=lambda item: -item[1]) for part in found], passes


def _best_of_each(scores: Tensor, owner: Tensor, beam: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the best `beam` finite scores (R, U) of each owner (R,); owners come in groups."""
    rows, columns = [], []
    for name in owner.unique_consecutive().tolist():
        mine = (owner == name).nonzero().flatten()
        flat = scores[mine].flatten()
        top = flat.topk(min(beam, int(flat.isfinite().sum()))).indices
        rows.append(mine[top // scores.shape[1]])
        columns.append(top % scores.shape[1])
    return torch.cat(rows), torch.cat(columns)
