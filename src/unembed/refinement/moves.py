"""One step away from a draft: which tokens to replace, insert, delete, exchange, move, or predict anew together.

Contents: `MoverConfig`, `Mover`.

The denoiser reads masked canvases of a draft (`slots.py`), the difference prior adds what the encoder's answer to the
draft says, and a student encoder, where the checkpoint has one, forecasts each proposal's vector. `Surrogate` turns all
of it into an expected change of the cosine, so that only the most promising proposals of all kinds cost a query.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import torch

from unembed.network.base import Network
from unembed.network.corrector import Corrector
from unembed.refinement.correction import corrections
from unembed.refinement.forecast import Forecaster
from unembed.refinement.reorder import orderings
from unembed.refinement.slots import Expansion, Slot, read_slots
from unembed.refinement.surrogate import MOVES, NOTHING, PLAIN, Features, Proposal, Surrogate

_WHOLE = ("reorder", "correct")  # few, and no feature tells how good they are: the student always sees them


@dataclass(frozen=True)
class MoverConfig:
    """What is proposed.

    Attributes:
        moves: names out of `surrogate.MOVES`.
        top: tokens considered for a masked position.
        pair_top: tokens considered for each of two neighbours that are masked together.
        corrections: texts that the corrector writes.
        corrected: drafts of a text that the corrector sees: the first, where it finds most to do.
        ordered: tokens of a draft, at most, whose order is tried anew; longer ones have wrong words to mend first.
        far: places that a token is moved, at most.
        look: proposals of a draft that the student sees.
        most: proposals of a draft that are kept.
    """

    moves: tuple[str, ...] = MOVES
    top: int = 6
    pair_top: int = 2
    corrections: int = 6
    corrected: int = 2
    ordered: int = 20
    far: int = 3
    look: int = 96
    most: int = 64


class Mover:
    """Proposes moves for drafts of several texts at once.

    Args:
        denoiser: the network; its logits see the target vector through the condition.
        forecaster: looks at proposals before they are asked; None where the checkpoint has no student.
        surrogate: ranks the proposals.
        config: what is proposed.
        corrector: writes whole texts anew; None where the checkpoint has none.
    """

    def __init__(
        self,
        denoiser: Network,
        forecaster: Forecaster | None = None,
        surrogate: Surrogate = PLAIN,
        config: MoverConfig | None = None,
        corrector: Corrector | None = None,
    ) -> None:
        self.denoiser, self.forecaster, self.surrogate, self.corrector = denoiser, forecaster, surrogate, corrector
        self.config = config or MoverConfig()
        self._corrected: Counter[int] = Counter()
        self._ordered: set[tuple[int, tuple[int, ...]]] = set()

    def __call__(
        self, expansion: Expansion, vectors: torch.Tensor
    ) -> Generator[None, None, tuple[list[list[Proposal]], list[int]]]:
        """Propose moves for each draft.

        Args:
            expansion: D drafts.
            vectors: (D, d) what the encoder answered to them, unit length.

        Yields:
            After each read of the network.

        Returns:
            The proposals of each draft, best first; and the passes that each took.
        """
        found: list[dict[tuple[int, ...], Proposal]] = [{} for _ in expansion.drafts]
        slots, passes = yield from read_slots(self.denoiser, expansion, self.surrogate, self.config.top)
        neighbours: dict[tuple[int, int], Slot] = {}
        for slot in slots:
            if slot.kind == "pair":
                if slot.column == slot.start:
                    neighbours[(slot.draft, slot.start)] = slot
            else:
                self._single(expansion, slot, found[slot.draft])
        for slot in slots:
            if slot.kind == "pair" and slot.column == slot.start + 1:
                self._pair(expansion, neighbours[(slot.draft, slot.start)], slot, found[slot.draft])
        if self.denoiser.config.causal and "reorder" in self.config.moves:
            yield from self._reorder(expansion, found, passes)
        if self.corrector is not None and "correct" in self.config.moves:
            yield from self._correct(self.corrector, expansion, vectors, found, passes)
        if self.forecaster is not None:
            if {"exchange", "shift"} & set(self.config.moves):
                for draft, known in zip(expansion.drafts, found, strict=True):
                    self._structural(draft, known)
            found = self._forecast(expansion, vectors, found)
        return [_best(part, self.config.most) for part in found], passes

    # ------------------------------------------------------------------ one kind after the other

    def _add(self, known: dict[tuple[int, ...], Proposal], ids: tuple[int, ...], move: str, features: Features) -> None:
        """Add a proposal; of two ways to the same draft the more promising stays."""
        if move in self.config.moves:
            proposal = Proposal(ids, move, features, self.surrogate.gain(move, features))
            if ids not in known or known[ids].gain < proposal.gain:
                known[ids] = proposal

    def _single(self, expansion: Expansion, slot: Slot, known: dict[tuple[int, ...], Proposal]) -> None:
        draft, at = expansion.drafts[slot.draft], slot.column
        white, plain = expansion.difference.whitened[slot.draft], expansion.difference.plain[slot.draft]
        if slot.kind == "insert":
            longer = expansion.length_change(slot.draft, 1)
            for token, log in zip(slot.tokens, slot.logs, strict=True):
                features = (log + longer, float(white[token]), float(plain[token]), 0.0)
                self._add(known, (*draft[:at], token, *draft[at:]), "insert", features)
            return
        old = draft[at]
        own, own_white, own_plain = slot.own[old], float(white[old]), float(plain[old])
        for token, log in zip(slot.tokens, slot.logs, strict=True):
            if token != old:
                features = (log - own, float(white[token]) - own_white, float(plain[token]) - own_plain, 0.0)
                self._add(known, (*draft[:at], token, *draft[at + 1 :]), "replace", features)
        if len(draft) > 1:
            features = (expansion.length_change(slot.draft, -1) - own, -own_white, -own_plain, 0.0)
            self._add(known, (*draft[:at], *draft[at + 1 :]), "delete", features)

    def _pair(self, expansion: Expansion, first: Slot, second: Slot, known: dict[tuple[int, ...], Proposal]) -> None:
        """Two neighbours that were masked together: swapped, or each replaced by one of its best tokens."""
        draft, at = expansion.drafts[first.draft], first.start
        a, b = draft[at], draft[at + 1]
        own = first.own[a] + second.own[b]
        head, tail = draft[:at], draft[at + 2 :]
        if a != b:
            self._add(known, (*head, b, a, *tail), "swap", (first.own[b] + second.own[a] - own, 0.0, 0.0, 0.0))
        white, plain = expansion.difference.whitened[first.draft], expansion.difference.plain[first.draft]
        top = self.config.pair_top
        for token, log in zip(first.tokens[:top], first.logs[:top], strict=True):
            for other, other_log in zip(second.tokens[:top], second.logs[:top], strict=True):
                if token != a and other != b:
                    features = (
                        log + other_log - own,
                        float(white[token] + white[other] - white[a] - white[b]),
                        float(plain[token] + plain[other] - plain[a] - plain[b]),
                        0.0,
                    )
                    self._add(known, (*head, token, other, *tail), "pair", features)

    def _reorder(
        self, expansion: Expansion, found: list[dict[tuple[int, ...], Proposal]], passes: list[int]
    ) -> Iterator[None]:
        """Other orders of the same tokens, once for each bag of words of a text."""
        new = []
        for i, (draft, text) in enumerate(zip(expansion.drafts, expansion.texts, strict=True)):
            bag = (text, tuple(sorted(draft)))
            if 1 < len(draft) <= self.config.ordered and bag not in self._ordered:
                self._ordered.add(bag)
                new.append(i)
        rows = torch.tensor([expansion.texts[i] for i in new], dtype=torch.long, device=self.denoiser.banned.device)
        condition, drafts = expansion.condition.select(rows), [expansion.drafts[i] for i in new]
        orders, spent = yield from orderings(self.denoiser, condition, drafts)
        for i, part, cost in zip(new, orders, spent, strict=True):
            passes[i] += cost
            best = part[0][1] if part else 0.0
            for ids, log in part:
                if ids != expansion.drafts[i]:
                    self._add(found[i], ids, "reorder", (log - best, 0.0, 0.0, 0.0))

    def _correct(
        self,
        corrector: Corrector,
        expansion: Expansion,
        vectors: torch.Tensor,
        found: list[dict[tuple[int, ...], Proposal]],
        passes: list[int],
    ) -> Iterator[None]:
        """The whole text written anew by the denoiser that sees the draft."""
        chosen = [i for i, text in enumerate(expansion.texts) if self._corrected[text] < self.config.corrected]
        self._corrected.update(expansion.texts[i] for i in chosen)
        rows = torch.tensor([expansion.texts[i] for i in chosen], dtype=torch.long, device=self.denoiser.banned.device)
        condition = expansion.condition.select(rows)
        drafts = [expansion.drafts[i] for i in chosen]
        texts, spent = yield from corrections(
            corrector, self.denoiser, condition, drafts, vectors[chosen], self.config.corrections
        )
        for i, part, cost in zip(chosen, texts, spent, strict=True):
            passes[i] += cost
            for ids, log in part:
                if ids and ids != expansion.drafts[i]:
                    self._add(found[i], ids, "correct", (log - part[0][1], 0.0, 0.0, 0.0))

    def _structural(self, draft: tuple[int, ...], known: dict[tuple[int, ...], Proposal]) -> None:
        """Two tokens exchanged, one or two neighbours moved, over a few places; only the student can rank these."""
        n, far = len(draft), self.config.far
        for i in range(n):
            for j in range(i + 2, min(i + far + 1, n)):
                if draft[i] != draft[j]:
                    ids = (*draft[:i], draft[j], *draft[i + 1 : j], draft[i], *draft[j + 1 :])
                    self._add(known, ids, "exchange", NOTHING)
        for size in (1, 2):
            for i in range(n - size + 1):
                rest, part = (*draft[:i], *draft[i + size :]), draft[i : i + size]
                for j in range(max(0, i - far), min(len(rest), i + far) + 1):
                    ids = (*rest[:j], *part, *rest[j:])
                    if ids != draft:
                        self._add(known, ids, "shift", NOTHING)

    def _forecast(
        self, expansion: Expansion, vectors: torch.Tensor, found: list[dict[tuple[int, ...], Proposal]]
    ) -> list[dict[tuple[int, ...], Proposal]]:
        """Let the student see whole texts and the most promising changes of each draft; the others are dropped."""
        assert self.forecaster is not None
        seen = []
        for known in found:
            whole = {ids: proposal for ids, proposal in known.items() if proposal.move in _WHOLE}
            rest = {ids: proposal for ids, proposal in known.items() if ids not in whole}
            seen.append([*whole.values(), *_best(rest, self.config.look)])
        changes = self.forecaster.changes(
            expansion.drafts, expansion.texts, vectors, [[p.ids for p in part] for part in seen]
        )
        out: list[dict[tuple[int, ...], Proposal]] = []
        for part, change in zip(seen, changes, strict=True):
            judged = {}
            for proposal, value in zip(part, change, strict=True):
                features = (*proposal.features[:3], value)
                judged[proposal.ids] = replace(
                    proposal, features=features, gain=self.surrogate.gain(proposal.move, features)
                )
            out.append(judged)
        return out


def _best(proposals: dict[tuple[int, ...], Proposal], most: int) -> list[Proposal]:
    return sorted(proposals.values(), key=lambda p: -p.gain)[:most]
