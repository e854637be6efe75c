"""Best-first search over drafts, guided by the denoiser and the difference prior, judged by the encoder.

Contents: `SearchConfig`, `refine`.

Any time: what a budget of k queries finds is the best draft among the first k, so one run is a whole curve. All texts
go together, so that the encoder and the denoiser work on full batches:

    1. ask the best of the drafts that decoding left; the others wait in the queue with their expected cosine;
    2. expand the nearest draft that has not been expanded: moves of all kinds, each with its expected cosine;
    3. ask the most promising of the queue; continue with 2 until the budget ends or the vector is met. Rounds are short
       at first and longer later, so that a small budget is spent with care and a large one in few expansions.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unembed.checkpoint.student_file import StudentFile
from unembed.errors import InputError
from unembed.network.base import Network
from unembed.network.conditioning import Condition
from unembed.network.corrector import Corrector
from unembed.network.difference import DifferencePrior
from unembed.network.precision import autocast
from unembed.refinement.asking import Asker
from unembed.refinement.budget import Budget
from unembed.refinement.forecast import Forecaster
from unembed.refinement.moves import Mover, MoverConfig
from unembed.refinement.refined import Asked, Refined
from unembed.refinement.slots import Expansion
from unembed.refinement.surrogate import MOVES, NOTHING, PLAIN, Proposal, Surrogate, fitted


@dataclass(frozen=True)
class SearchConfig:
    """How the search goes about it.

    Attributes:
        first: drafts of the decode that are asked before anything is expanded.
        ask: most queries per round; a round has 1 + spent / 2 of them up to this.
        beam: drafts that are expanded per round.
        most: proposals kept of an expansion.
        top: tokens considered for a masked position.
        look: proposals of an expansion that the student sees.
        fluency: how much a nat of log-likelihood counts beside the cosine in the choice of what to ask and to expand:
            of two drafts equally near the more likely one is fewer words away from the text.
        tolerance: a cosine of at least 1 - tolerance is the text itself: the search ends.
        moves: how drafts are changed, names out of `surrogate.MOVES`; without any, only the drafts of the decode are
            compared (best-of).
    """

    first: int = 2
    ask: int = 32
    beam: int = 1
    most: int = 64
    top: int = 6
    look: int = 96
    fluency: float = 0.004
    tolerance: float = 1e-5
    moves: tuple[str, ...] = MOVES

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name in ("first", "ask", "beam", "most", "top", "look"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}.", "Use a whole number of at least 1.")
        for move in self.moves:
            if move not in MOVES:
                raise InputError(f"There is no move {move!r}.", f"Moves: {', '.join(MOVES)}.")


class _Search:
    """The state of one text."""

    def __init__(self, drafts: Sequence[tuple[int, ...]], config: SearchConfig) -> None:
        self.result = Refined()
        self.fluency = config.fluency
        self.heap: list[tuple[float, int, Proposal, Asked | None]] = []
        self.seen: set[tuple[int, ...]] = set()
        self.expanded: set[tuple[int, ...]] = set()
        self.vectors: dict[tuple[int, ...], np.ndarray] = {}
        self._count = 0
        self.waiting = [tuple(ids) for ids in drafts[config.first :]]
        for rank, ids in enumerate(drafts[: config.first]):
            self.push(Proposal(tuple(ids), "draft", NOTHING, 10.0 - rank))

    def room(self, config: SearchConfig, budget: Budget) -> int:
        """Queries of the next round."""
        spent = self.result.queries
        wanted = min(config.ask, 1 + spent // 2) if self.result.asked else config.first
        return min(wanted, budget.queries - spent)

    def push(self, proposal: Proposal, parent: Asked | None = None) -> None:
        """Add a proposal; the queue goes by the expected cosine and by the likelihood."""
        self._count += 1
        worth = proposal.gain + self.fluency * proposal.features[0]
        if parent is not None:
            worth += parent.cosine + self.fluency * parent.log
        heapq.heappush(self.heap, (-worth, self._count, proposal, parent))

    def take(self, room: int) -> list[tuple[Proposal, Asked | None]]:
        """The most promising proposals that are new; no kind of move takes more than half of a round."""
        taken: list[tuple[Proposal, Asked | None]] = []
        later = []
        kinds: Counter[str] = Counter()
        while self.heap and len(taken) < room:
            entry = heapq.heappop(self.heap)
            proposal, parent = entry[2], entry[3]
            if proposal.ids in self.seen:
                continue
            if proposal.move != "draft" and kinds[proposal.move] >= (room + 1) // 2:
                later.append(entry)
                continue
            kinds[proposal.move] += 1
            self.seen.add(proposal.ids)
            taken.append((proposal, parent))
        for entry in later:
            heapq.heappush(self.heap, entry)
        return taken

    def best_open(self, count: int) -> list[Asked]:
        """The nearest drafts that have not been expanded."""
        open_drafts = [a for a in self.result.asked if a.ids not in self.expanded and a.ids]
        return heapq.nlargest(count, open_drafts, key=lambda a: a.cosine + self.fluency * a.log)


def refine(
    denoiser: Network,
    vectors: Tensor,
    drafts: Sequence[Sequence[tuple[int, ...]]],
    asker: Asker,
    budget: Budget,
    config: SearchConfig | None = None,
    surrogate: Surrogate | None = None,
    report: Callable[[int, float, float], None] | None = None,
    student: StudentFile | None = None,
    corrector: Corrector | None = None,
    results: list[Refined] | None = None,
) -> list[Refined]:
    """Search for the texts of T vectors at once.

    Args:
        denoiser: the network.
        vectors: (T, d) targets.
        drafts: of each text, best first, as token ids; a student puts those after the first into its own order.
        asker: sends the queries.
        budget: of each text.
        config: options.
        surrogate: ranks proposals; None takes the one that was fitted for what the checkpoint has.
        student: looks at proposals before they are asked, without a query; None where there is none.
        corrector: writes whole texts anew; None where there is none.
        report: called after each round with the most queries of a text, the mean cosine and the number of texts met.
        results: filled at once with what is returned and kept up to date, so that an exception (Ctrl-C, an encoder that
            fails) leaves what was found until then.

    Returns:
        One result per text.

    Raises:
        InputError: the checkpoint lacks what the search needs.
        EncoderError: see `Asker.ask`.
    """
    config = config or SearchConfig()
    began = time.monotonic()
    target = torch.nn.functional.normalize(vectors.float(), dim=1)
    forecaster = None
    if student is not None:
        table = denoiser.embedding.weight
        forecaster = Forecaster(student.student, table, target, table.dtype)
        drafts = _sorted(drafts, forecaster)
    searches = [_Search(part, config) for part in drafts]
    if results is not None:
        results[:] = [s.result for s in searches]
    grower = None
    if config.moves and budget.queries:
        with torch.inference_mode(), autocast(denoiser):
            condition = denoiser.condition(vectors.float())
            lengths = denoiser.length_log_probs(vectors.float())
        if surrogate is None:
            surrogate = PLAIN if student is None else fitted(student.surrogate)
        chosen = MoverConfig(config.moves, top=config.top, look=config.look, most=config.most)
        mover = Mover(denoiser, forecaster, surrogate, chosen, corrector)
        grower = _Grower(mover, DifferencePrior(denoiser), condition, lengths, target)
    while True:
        open_texts = [
            i
            for i, s in enumerate(searches)
            if not s.result.met
            and s.result.queries < budget.queries
            and (budget.passes is None or s.result.passes < budget.passes)
        ]
        if not open_texts or (budget.seconds is not None and time.monotonic() - began > budget.seconds):
            break
        asked = _ask(searches, open_texts, target, asker, budget, config, denoiser.config.max_length)
        _release(searches, open_texts, grower)
        if report is not None:
            best = [s.result.best() for s in searches]
            cosines = [a.cosine for a in best if a is not None]
            met = sum(s.result.met for s in searches)
            report(max(s.result.queries for s in searches), float(np.mean(cosines or [0.0])), met)
        grown = grower(searches, open_texts, budget, config) if grower is not None else 0
        if not asked and not grown:
            break
    return [s.result for s in searches]


def _sorted(drafts: Sequence[Sequence[tuple[int, ...]]], forecaster: Forecaster) -> list[list[tuple[int, ...]]]:
    """The best draft of each text in its place, the others after it nearest first, as the student sees them."""
    guess = forecaster.encode([ids for part in drafts for ids in part])
    out, at = [], 0
    for text, part in enumerate(drafts):
        near = (guess[at : at + len(part)] @ forecaster.targets[text]).tolist()
        at += len(part)
        out.append([part[k] for k in sorted(range(len(part)), key=lambda k: (k > 0, -near[k]))])
    return out


def _release(searches: list[_Search], texts: list[int], grower: _Grower | None) -> None:
    """Put the drafts that wait into the queue, once a first draft was asked and the others can be compared with it."""
    chosen = [i for i in texts if searches[i].waiting and searches[i].result.asked]
    nearest = [max(searches[i].result.asked, key=lambda a: a.cosine) for i in chosen]
    waiting = [searches[i].waiting for i in chosen]
    changes = [[-0.01 - 0.003 * rank for rank in range(len(part))] for part in waiting]
    if grower is not None and grower.mover.forecaster is not None and chosen:
        own = torch.from_numpy(np.stack([searches[i].vectors[a.ids] for i, a in zip(chosen, nearest, strict=True)]))
        changes = grower.mover.forecaster.changes([a.ids for a in nearest], chosen, own, waiting)
    for i, asked, part, change in zip(chosen, nearest, waiting, changes, strict=True):
        for ids, gain in zip(part, change, strict=True):
            searches[i].push(Proposal(ids, "draft", (0.0, 0.0, 0.0, gain), gain), asked)
        searches[i].waiting = []


def _ask(
    searches: list[_Search],
    texts: list[int],
    target: Tensor,
    asker: Asker,
    budget: Budget,
    config: SearchConfig,
    max_length: int,
) -> int:
    """Ask the most promising proposals of each text; return how many drafts were new.

    A draft whose pieces the encoder would tokenise into more than `limit` tokens is dropped.
    """
    batch: list[tuple[int, str, tuple[int, ...], Proposal, Asked | None]] = []
    for i in texts:
        search = searches[i]
        room = search.room(config, budget)
        taken = search.take(room)
        settled = asker.settle([proposal.ids for proposal, _ in taken])
        for (proposal, parent), (text, ids) in zip(taken, settled, strict=True):
            if 0 < len(ids) <= max_length and (ids == proposal.ids or ids not in search.seen) and text:
                search.seen.add(ids)
                batch.append((i, text, ids, proposal, parent))
    if not batch:
        return 0
    fresh = [not asker.knows(text) for _, text, _, _, _ in batch]
    vectors = asker.ask([text for _, text, _, _, _ in batch])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.maximum(norms, 1e-12)
    counted: set[str] = set()
    for (i, text, ids, proposal, parent), new, vector in zip(batch, fresh, vectors, strict=True):
        search = searches[i]
        if new and text not in counted:
            search.result.queries += 1
            counted.add(text)
        cosine = float(vector @ target[i].numpy())
        before, log = (0.0, 0.0) if parent is None else (parent.cosine, parent.log)
        log += proposal.features[0]
        search.result.asked.append(
            Asked(ids, text, cosine, search.result.queries, proposal.move, proposal.features, before, log)
        )
        search.vectors[ids] = vector
        search.result.met = search.result.met or cosine >= 1.0 - config.tolerance
    return len(batch)


@dataclass(frozen=True)
class _Grower:
    """Expands the nearest drafts of each text."""

    mover: Mover
    prior: DifferencePrior
    condition: Condition
    length_log_probs: Tensor
    target: Tensor

    def __call__(self, searches: list[_Search], texts: list[int], budget: Budget, config: SearchConfig) -> int:
        """Expand the nearest drafts of each unfinished text; return how many proposals came."""
        chosen: list[tuple[int, Asked]] = []
        for i in texts:
            search = searches[i]
            if not search.result.met and search.result.queries < budget.queries:
                chosen += [(i, asked) for asked in search.best_open(config.beam)]
        if not chosen:
            return 0
        rows = [i for i, _ in chosen]
        with torch.inference_mode():
            own = torch.from_numpy(np.stack([searches[i].vectors[a.ids] for i, a in chosen]))
            difference = self.prior(self.target[rows], own)
        expansion = Expansion([a.ids for _, a in chosen], rows, difference, self.condition, self.length_log_probs)
        found, passes = self.mover(expansion, own)
        count = 0
        for (i, asked), proposals, spent in zip(chosen, found, passes, strict=True):
            search = searches[i]
            search.expanded.add(asked.ids)
            search.result.passes += spent
            for proposal in proposals:
                if proposal.ids not in search.seen:
                    search.push(proposal, asked)
                    count += 1
        return count
