"""Better texts than a draft, by the denoiser with a corrector: left-to-right beams that see the draft.

Contents: `corrections`, and `Correction`: draft, query, correct, repeat, as Vec2Text does it (arXiv 2310.06816).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from unembed.decoding.causal.beams import Texts
from unembed.decoding.causal.writer import likeliest_options, write_texts
from unembed.network.base import Network
from unembed.network.conditioning import Condition
from unembed.network.corrector import Corrector
from unembed.network.denoiser import autocast
from unembed.refinement.queries import Asked, CachedEncoder, History, Query, known_vectors
from unembed.refinement.surrogate import NOTHING, Proposal


def corrections(
    corrector: Corrector,
    denoiser: Network,
    condition: Condition,
    drafts: Sequence[tuple[int, ...]],
    draft_vectors: Tensor,
    beam: int = 8,
) -> Generator[None, None, tuple[Texts, list[int]]]:
    """Write each text anew, seeing a draft of it and what the draft's vector lacks.

    Args:
        corrector: of this denoiser.
        denoiser: trained with causal rows.
        condition: of the D drafts' targets, one row per draft.
        drafts: D drafts of at least one token.
        draft_vectors: (D, d) their vectors, as the encoder makes them.
        beam: hypotheses kept of each draft; 1 is greedy.

    Yields:
        After each read of the network.

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
    return (yield from write_texts(denoiser, changed, beam, likeliest_options, make_room=True))


class Correction:
    """The plain loop of correction for T texts at once, as `queries.rounds` runs it.

    The first draft of each text is asked; the nearest draft that is left is corrected, the likeliest text that comes of
    it is asked, and the next ones until one is nearer.

    Args:
        corrector: of this denoiser.
        denoiser: the network.
        vectors: (T, d) targets.
        drafts: of each text, best first, as token ids; all are asked before the first correction.
        encoder: answers the queries.
        beam: hypotheses of a correction.
    """

    def __init__(
        self,
        corrector: Corrector,
        denoiser: Network,
        vectors: Tensor,
        drafts: Sequence[Sequence[tuple[int, ...]]],
        encoder: CachedEncoder,
        beam: int = 1,
    ) -> None:
        self.encoder, self.targets = encoder, torch.nn.functional.normalize(vectors.float(), dim=1)
        self.histories = [History() for _ in drafts]
        self._corrector, self._denoiser, self._beam = corrector, denoiser, beam
        self._queues = [[Proposal(tuple(ids), "draft", NOTHING, 0.0) for ids in part] for part in drafts]
        self._corrected: list[set[tuple[int, ...]]] = [set() for _ in drafts]
        with torch.inference_mode(), autocast(denoiser):
            self._condition = denoiser.condition(vectors.float().to(denoiser.banned.device))

    def take(self, row: int, room: int) -> list[Query]:
        """The next draft of a text that is new to it."""
        queue = self._queues[row]
        while queue:
            proposal = queue.pop(0)
            text, ids = self.encoder.settle([proposal.ids])[0]
            if 0 < len(ids) <= self._denoiser.config.max_length and text and ids not in self.histories[row].vectors:
                return [Query(row, text, ids, proposal)]
        return []

    def grow(self, rows: Sequence[int]) -> Generator[None, None, int]:
        """Correct the nearest draft of each text that has none left to ask; return how many were corrected."""
        chosen: list[tuple[int, Asked]] = []
        for i in rows:
            asked, queue = self.histories[i].asked, self._queues[i]
            if queue and queue[0].move == "correct" and asked[-1] is self.histories[i].best():
                queue.clear()  # on from the nearer text; otherwise the next likely one is asked
            left = [one for one in asked if one.ids not in self._corrected[i]]
            if left and not queue:
                chosen.append((i, max(left, key=lambda one: one.cosine)))
        if chosen:
            own = known_vectors(self.histories, chosen)
            with torch.inference_mode():
                of = torch.tensor([i for i, _ in chosen], device=self._condition.text.device)
                condition = self._condition.select(of)
            drafts = [one.ids for _, one in chosen]
            found, passes = yield from corrections(self._corrector, self._denoiser, condition, drafts, own, self._beam)
            for (i, one), options, spent in zip(chosen, found, passes, strict=True):
                self._corrected[i].add(one.ids)
                self.histories[i].passes += spent
                self._queues[i] += [Proposal(ids, "correct", NOTHING, 0.0) for ids, _ in options]
        return len(chosen)
