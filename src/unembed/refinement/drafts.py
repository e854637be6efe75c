"""From drafts of a decode to refined drafts: what `Inverter.invert(queries=N)` calls.

Contents: `refine_drafts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from unembed.decoding.trace import Draft
from unembed.model.denoiser import Denoiser
from unembed.refinement.asking import Asker
from unembed.refinement.budget import Budget
from unembed.refinement.search import Refined, SearchConfig, refine


def refine_drafts(
    denoiser: Denoiser,
    vectors: torch.Tensor,
    drafts: Sequence[Draft],
    asker: Asker,
    budget: Budget,
    config: SearchConfig | None = None,
    report: Callable[[int, float, float], None] | None = None,
) -> tuple[list[Draft], list[Refined]]:
    """Refine the drafts of T texts.

    Args:
        denoiser: the network.
        vectors: (T, d) targets.
        drafts: what decoding chose, with its alternatives, which are asked too.
        asker, budget, config, report: as `search.refine`.

    Returns:
        The nearest draft of each text, with the passes of the search counted in and without the probabilities of a
        decode that made another text; and what was asked.
    """
    candidates = []
    for draft in drafts:
        ids = [draft.ids, *(other.ids for other in draft.alternatives)]
        candidates.append([part for part in dict.fromkeys(ids) if part])
    results = refine(denoiser, vectors, candidates, asker, budget, config, report=report)
    out = []
    for draft, result in zip(drafts, results, strict=True):
        best = result.best()
        spent = draft.spent + result.passes
        if best is None:
            out.append(replace(draft, spent=spent))
            continue
        own = {draft.ids: draft, **{other.ids: other for other in draft.alternatives}}.get(best.ids)
        sure = own.token_confidence if own is not None else (best.cosine,) * len(best.ids)
        out.append(
            replace(draft, ids=best.ids, length=len(best.ids), token_confidence=sure, spent=spent, score=best.cosine)
        )
    return out, results
