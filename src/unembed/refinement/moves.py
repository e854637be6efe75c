"""One step away from a draft: which tokens to replace, insert, delete, swap, or predict anew together.

Contents: `MOVES`, `Proposal`, `Surrogate`, `Mover`.

Every move is read off masked canvases: one position masked (replace, delete), one mask more than the draft has
(insert), two neighbours masked (swap, pair). The denoiser scores them all in a few batched passes; the difference prior
adds what the encoder's answer to the draft says. `Surrogate` turns both into an expected change of the cosine, so that
only the most promising proposals of all kinds cost a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unembed.model.conditioning import Condition
from unembed.model.denoiser import GIVEN, MASK, Denoiser
from unembed.model.precision import autocast
from unembed.refinement.difference import Difference
from unembed.refinement.reorder import orderings

MOVES = ("replace", "insert", "delete", "swap", "pair", "reorder")
_ROWS = 256  # rows whose logits are held at once
_CANVASES = 512


@dataclass(frozen=True)
class Proposal:
    """A draft that has not been asked yet.

    Attributes:
        ids: its tokens.
        move: how it differs from the draft it came from.
        features: change of log-likelihood (nats, clipped), change of the difference prior in both metrics.
        gain: expected change of the cosine.
    """

    ids: tuple[int, ...]
    move: str
    features: tuple[float, float, float]
    gain: float


@dataclass(frozen=True)
class Surrogate:
    """Linear guess of the change of the cosine that a proposal brings.

    Attributes:
        weights: move -> (constant, weight of the log-likelihood, of the whitened, of the plain difference).
        clip: log-likelihood changes are cut to this many nats.
    """

    weights: dict[str, tuple[float, float, float, float]]
    clip: float = 8.0

    def gain(self, move: str, change: Tensor, whitened: Tensor, plain: Tensor) -> Tensor:
        """Expected change of the cosine; all arguments of one shape."""
        w = self.weights[move]
        return w[0] + w[1] * change.clamp(-self.clip, self.clip) + w[2] * whitened + w[3] * plain


PLAIN = Surrogate(
    {
        "replace": (-0.025, 0.0005, 0.0006, 0.05),
        "insert": (-0.013, 0.002, 0.001, 0.1),
        "delete": (-0.04, 0.004, 0.0, 0.3),
        "swap": (-0.01, 0.0025, 0.0, 0.0),
        "pair": (-0.035, 0.001, 0.0001, 0.2),
        "reorder": (-0.005, 0.001, 0.0, 0.0),
    }
)


@dataclass
class _Canvases:
    """Masked canvases of several drafts, and what each is for."""

    ids: list[list[int]]
    masks: list[tuple[int, ...]]
    owner: list[int]
    kind: list[str]

    def add(self, ids: list[int], masks: tuple[int, ...], owner: int, kind: str) -> None:
        self.ids.append(ids)
        self.masks.append(masks)
        self.owner.append(owner)
        self.kind.append(kind)


class Mover:
    """Proposes moves for drafts of several texts at once.

    Args:
        denoiser: the network; its logits see the target vector through the condition.
        condition: of the T texts.
        length_log_probs: (T, limit) log p(n | vector).
        surrogate: ranks the proposals.
        top: tokens considered for each masked position.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        condition: Condition,
        length_log_probs: Tensor,
        surrogate: Surrogate = PLAIN,
        top: int = 6,
    ) -> None:
        self.denoiser, self.condition, self.surrogate, self.top = denoiser, condition, surrogate, top
        self.lengths = length_log_probs
        self.limit = denoiser.config.limit
        self._ordered: set[tuple[int, tuple[int, ...]]] = set()

    def __call__(
        self, drafts: Sequence[tuple[int, ...]], texts: Sequence[int], difference: Difference, most: int
    ) -> tuple[list[list[Proposal]], list[int]]:
        """Propose at most `most` moves for each draft, best first.

        Args:
            drafts: D drafts.
            texts: for each the row of the condition.
            difference: of the D drafts.
            most: proposals of a draft.

        Returns:
            The proposals of each draft, and the passes that each took.
        """
        canvases = _Canvases([], [], [], [])
        mask = self.denoiser.config.mask_id
        for owner, draft in enumerate(drafts):
            ids, n = list(draft), len(draft)
            for i in range(n):
                canvases.add([*ids[:i], mask, *ids[i + 1 :]], (i,), owner, "replace")
            if n < self.limit:
                for i in range(n + 1):
                    canvases.add([*ids[:i], mask, *ids[i:]], (i,), owner, "insert")
            for i in range(n - 1):
                canvases.add([*ids[:i], mask, mask, *ids[i + 2 :]], (i, i + 1), owner, "pair")
        found: list[list[Proposal]] = [[] for _ in drafts]
        order = sorted(range(len(canvases.ids)), key=lambda k: len(canvases.ids[k]))
        with torch.inference_mode(), autocast(self.denoiser):
            for start in range(0, len(order), _CANVASES):
                self._read(canvases, order[start : start + _CANVASES], drafts, texts, difference, found)
        passes = [0] * len(drafts)
        for owner in canvases.owner:
            passes[owner] += 1
        if self.denoiser.config.causal:
            self._reorder(drafts, texts, found, passes)
        return [_best(part, most) for part in found], passes

    def _reorder(
        self, drafts: Sequence[tuple[int, ...]], texts: Sequence[int], found: list[list[Proposal]], passes: list[int]
    ) -> None:
        """Other orders of the same tokens, once for each bag of words of a text."""
        new = []
        for i, (draft, text) in enumerate(zip(drafts, texts, strict=True)):
            bag = (text, tuple(sorted(draft)))
            if len(draft) > 1 and bag not in self._ordered:
                self._ordered.add(bag)
                new.append(i)
        rows = torch.tensor([texts[i] for i in new], dtype=torch.long, device=self.denoiser.banned.device)
        orders, spent = orderings(self.denoiser, self.condition.select(rows), [drafts[i] for i in new])
        for i, part, cost in zip(new, orders, spent, strict=True):
            passes[i] += cost
            best = part[0][1] if part else 0.0
            for ids, log in part:
                if ids != drafts[i]:
                    found[i].append(self._proposal(ids, "reorder", (log - best, 0.0, 0.0)))

    def _read(
        self,
        canvases: _Canvases,
        chosen: list[int],
        drafts: Sequence[tuple[int, ...]],
        texts: Sequence[int],
        difference: Difference,
        found: list[list[Proposal]],
    ) -> None:
        device = self.denoiser.banned.device
        n = len(canvases.ids[chosen[-1]])
        pad = self.denoiser.config.pad_id
        ids = torch.tensor([canvases.ids[k] + [pad] * (n - len(canvases.ids[k])) for k in chosen], device=device)
        lengths = torch.tensor([len(canvases.ids[k]) for k in chosen], device=device)
        masked = torch.zeros_like(ids, dtype=torch.bool)
        for row, k in enumerate(chosen):
            masked[row, list(canvases.masks[k])] = True
        owner = torch.tensor([canvases.owner[k] for k in chosen], device=device)
        text = torch.tensor([texts[canvases.owner[k]] for k in chosen], device=device)
        uneven = None if bool((lengths == n).all()) else lengths
        states = torch.where(masked, MASK, GIVEN)
        reading = self.denoiser.read(ids, states, self.condition.select(text), uneven, masked)
        place: dict[tuple[int, int], tuple[list[int], list[float], dict[int, float]]] = {}
        for row in range(0, len(reading), _ROWS):
            part = slice(row, row + _ROWS)
            scores = torch.log_softmax(self.denoiser.scores(reading, part), dim=-1)
            self._pick(scores, reading.owner[part].tolist(), reading.column[part].tolist(), chosen, canvases, drafts,
                       texts, owner, difference, found, place)  # fmt: skip
        self._pairs(place, canvases, drafts, difference, found)

    def _pick(
        self,
        scores: Tensor,
        rows: list[int],
        columns: list[int],
        chosen: list[int],
        canvases: _Canvases,
        drafts: Sequence[tuple[int, ...]],
        texts: Sequence[int],
        owner: Tensor,
        difference: Difference,
        found: list[list[Proposal]],
        place: dict[tuple[int, int], tuple[list[int], list[float], dict[int, float]]],
    ) -> None:
        """Turn log-probabilities (R, V) of masked positions into proposals."""
        who = owner[torch.tensor(rows, device=owner.device)]
        kinds = [canvases.kind[chosen[row]] for row in rows]
        white, plain = difference.whitened, difference.plain
        clip = self.surrogate.clip
        gains = torch.empty_like(scores)
        for kind in set(kinds):
            at = torch.tensor([i for i, k in enumerate(kinds) if k == kind], device=scores.device)
            move = "replace" if kind == "pair" else kind
            _, a, b, c = self.surrogate.weights[move]
            bases = self._bases(kind, [rows[i] for i in at.tolist()], [columns[i] for i in at.tolist()], chosen,
                                canvases, drafts, texts, scores[at])  # fmt: skip
            change = (scores[at] - bases.unsqueeze(1)).clamp(-clip, clip)
            gains[at] = a * change + b * white[who[at]] + c * plain[who[at]]
            gains[at] = gains[at].masked_fill(~scores[at].isfinite(), -torch.inf)
        top = gains.topk(self.top, dim=1).indices
        values = scores.gather(1, top)
        tops, logs = top.tolist(), values.tolist()
        for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
            k = chosen[row]
            draft_index = canvases.owner[k]
            draft = drafts[draft_index]
            kind = canvases.kind[k]
            if kind == "pair":
                first = canvases.masks[k][0]
                both = draft[first : first + 2]
                known = {token: float(scores[i, token]) for token in both}
                place[(k, column)] = (tops[i], logs[i], known)
                continue
            self._single(draft, draft_index, kind, column, scores[i], tops[i], logs[i], texts, difference, found)

    def _bases(
        self,
        kind: str,
        rows: list[int],
        columns: list[int],
        chosen: list[int],
        canvases: _Canvases,
        drafts: Sequence[tuple[int, ...]],
        texts: Sequence[int],
        scores: Tensor,
    ) -> Tensor:
        """(R,) log-probability of what stands there now; for insertions what the longer text costs."""
        if kind == "insert":
            costs = []
            for row in rows:
                owner = canvases.owner[chosen[row]]
                n = len(drafts[owner])
                costs.append(self._length_change(texts[owner], n, n + 1))
            return -torch.tensor(costs, device=scores.device)
        own = [drafts[canvases.owner[chosen[row]]][column] for row, column in zip(rows, columns, strict=True)]
        return scores.gather(1, torch.tensor(own, device=scores.device).unsqueeze(1)).squeeze(1).clamp_min(-30.0)

    def _length_change(self, text: int, old: int, new: int) -> float:
        return float(self.lengths[text, new - 1] - self.lengths[text, old - 1])

    def _single(
        self,
        draft: tuple[int, ...],
        index: int,
        kind: str,
        column: int,
        scores: Tensor,
        tokens: list[int],
        logs: list[float],
        texts: Sequence[int],
        difference: Difference,
        found: list[list[Proposal]],
    ) -> None:
        white, plain = difference.whitened[index], difference.plain[index]
        n = len(draft)
        if kind == "insert":
            longer = self._length_change(texts[index], n, n + 1)
            for token, log in zip(tokens, logs, strict=True):
                features = (log + longer, float(white[token]), float(plain[token]))
                found[index].append(self._proposal((*draft[:column], token, *draft[column:]), "insert", features))
            return
        old = draft[column]
        own = max(float(scores[old]), -30.0)
        own_white, own_plain = float(white[old]), float(plain[old])
        for token, log in zip(tokens, logs, strict=True):
            if token == old:
                continue
            features = (log - own, float(white[token]) - own_white, float(plain[token]) - own_plain)
            found[index].append(self._proposal((*draft[:column], token, *draft[column + 1 :]), "replace", features))
        if n > 1:
            shorter = self._length_change(texts[index], n, n - 1)
            features = (shorter - own, -own_white, -own_plain)
            found[index].append(self._proposal((*draft[:column], *draft[column + 1 :]), "delete", features))

    def _pairs(
        self,
        place: dict[tuple[int, int], tuple[list[int], list[float], dict[int, float]]],
        canvases: _Canvases,
        drafts: Sequence[tuple[int, ...]],
        difference: Difference,
        found: list[list[Proposal]],
    ) -> None:
        """Two neighbours that were masked together: exchanged, or each replaced by one of its best tokens."""
        for (k, column), (tokens, logs, known) in place.items():
            first = canvases.masks[k][0]
            if column != first or (k, first + 1) not in place:
                continue
            owner = canvases.owner[k]
            draft = drafts[owner]
            other_tokens, other_logs, other_known = place[(k, first + 1)]
            a, b = draft[first], draft[first + 1]
            own = max(known[a] + other_known[b], -60.0)
            if a != b:
                swapped = (*draft[:first], b, a, *draft[first + 2 :])
                found[owner].append(self._proposal(swapped, "swap", (known[b] + other_known[a] - own, 0.0, 0.0)))
            white, plain = difference.whitened[owner], difference.plain[owner]
            for token, log in zip(tokens[:2], logs[:2], strict=True):
                for other, other_log in zip(other_tokens[:2], other_logs[:2], strict=True):
                    if token == a or other == b:
                        continue
                    features = (
                        log + other_log - own,
                        float(white[token] + white[other] - white[a] - white[b]),
                        float(plain[token] + plain[other] - plain[a] - plain[b]),
                    )
                    ids = (*draft[:first], token, other, *draft[first + 2 :])
                    found[owner].append(self._proposal(ids, "pair", features))

    def _proposal(self, ids: tuple[int, ...], move: str, features: tuple[float, float, float]) -> Proposal:
        constant, a, b, c = self.surrogate.weights[move]
        clip = self.surrogate.clip
        change = min(max(features[0], -clip), clip)
        return Proposal(ids, move, features, constant + a * change + b * features[1] + c * features[2])


def _best(proposals: list[Proposal], most: int) -> list[Proposal]:
    """The best proposals, each text once."""
    best: dict[tuple[int, ...], Proposal] = {}
    for proposal in proposals:
        if proposal.ids not in best or best[proposal.ids].gain < proposal.gain:
            best[proposal.ids] = proposal
    return sorted(best.values(), key=lambda p: -p.gain)[:most]
