"""Best-first search over drafts, guided by the denoiser and the difference prior, judged by the encoder.

Contents: `SearchConfig`, `Search`.

Any time: what a budget of k queries finds is the best draft among the first k, so one run is a whole curve. All texts
go together, so that the encoder and the denoiser work on full batches:

    1. ask the best of the drafts that decoding left; the others wait in the queue with their expected cosine;
    2. expand the nearest draft that has not been expanded: moves of all kinds, each with its expected cosine;
    3. ask the most promising of the queue; continue with 2 until the budget ends or the vector is met. Rounds are short
       at first and longer later, so that a small budget is spent with care and a large one in few expansions.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unembed.checkpoint.student_file import StudentFile
from unembed.errors import InputError
from unembed.network.base import Network
from unembed.network.corrector import Corrector
from unembed.network.denoiser import autocast
from unembed.network.difference import DifferencePrior
from unembed.refinement.forecast import Forecaster
from unembed.refinement.moves import Mover, MoverConfig
from unembed.refinement.queries import Asked, CachedEncoder, History, Query, known_vectors
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
    moves: tuple[str, ...] = MOVES

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name in ("first", "ask", "beam", "most", "top", "look"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}.", "Use a whole number of at least 1.")
        for move in self.moves:
            if move not in MOVES:
                raise InputError(f"There is no move {move!r}.", f"Moves: {', '.join(MOVES)}.")


class _Queue:
    """What may be asked for one text, the most promising first."""

    def __init__(self, drafts: Sequence[tuple[int, ...]], config: SearchConfig) -> None:
        self.fluency = config.fluency
        self.heap: list[tuple[float, int, Proposal, Asked | None]] = []
        self.seen: set[tuple[int, ...]] = set()
        self.expanded: set[tuple[int, ...]] = set()
        self._count = 0
        self.waiting = [tuple(ids) for ids in drafts[config.first :]]
        for rank, ids in enumerate(drafts[: config.first]):
            self.push(Proposal(tuple(ids), "draft", NOTHING, 10.0 - rank))

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

    def best_open(self, asked: Sequence[Asked], count: int) -> list[Asked]:
        """The nearest drafts that have not been expanded."""
        open_drafts = [a for a in asked if a.ids not in self.expanded and a.ids]
        return heapq.nlargest(count, open_drafts, key=lambda a: a.cosine + self.fluency * a.log)


class Search:
    """The search for the texts of T vectors at once, as `queries.rounds` runs it.

    Args:
        denoiser: the network.
        vectors: (T, d) targets.
        drafts: of each text, best first, as token ids; a student puts those after the first into its own order.
        encoder: answers the queries.
        config: options.
        surrogate: ranks proposals; None takes the one that was fitted for what the checkpoint has.
        student: looks at proposals before they are asked, without a query; None where there is none.
        corrector: writes whole texts anew; None where there is none.

    Raises:
        InputError: the checkpoint lacks what the search needs.
    """

    def __init__(
        self,
        denoiser: Network,
        vectors: Tensor,
        drafts: Sequence[Sequence[tuple[int, ...]]],
        encoder: CachedEncoder,
        config: SearchConfig | None = None,
        surrogate: Surrogate | None = None,
        student: StudentFile | None = None,
        corrector: Corrector | None = None,
    ) -> None:
        self.encoder, self.config = encoder, config or SearchConfig()
        self.targets = torch.nn.functional.normalize(vectors.float(), dim=1)
        self._max_length = denoiser.config.max_length
        self._forecaster: Forecaster | None = None
        if student is not None:
            table = denoiser.embedding.weight
            self._forecaster = Forecaster(student.student, table, self.targets, table.dtype)
            drafts = self._sorted(drafts, self._forecaster)
        self.histories = [History() for _ in drafts]
        self._queues = [_Queue(part, self.config) for part in drafts]
        self._mover: Mover | None = None
        if self.config.moves:
            with torch.inference_mode(), autocast(denoiser):
                self._condition = denoiser.condition(vectors.float())
                self._lengths = denoiser.length_log_probs(vectors.float())
            if surrogate is None:
                surrogate = PLAIN if student is None else fitted(student.surrogate)
            c = self.config
            chosen = MoverConfig(c.moves, top=c.top, look=c.look, most=c.most)
            self._mover = Mover(denoiser, self._forecaster, surrogate, chosen, corrector)
            self._prior = DifferencePrior(denoiser)

    def take(self, row: int, room: int) -> list[Query]:
        """The most promising proposals of a text, as they settle; those too long for the network are dropped."""
        history, queue = self.histories[row], self._queues[row]
        wanted = min(self.config.ask, 1 + history.queries // 2) if history.asked else self.config.first
        taken = queue.take(min(wanted, room))
        settled = self.encoder.settle([proposal.ids for proposal, _ in taken])
        out = []
        for (proposal, parent), (text, ids) in zip(taken, settled, strict=True):
            if 0 < len(ids) <= self._max_length and (ids == proposal.ids or ids not in queue.seen) and text:
                queue.seen.add(ids)
                out.append(Query(row, text, ids, proposal, parent))
        return out

    def grow(self, rows: Sequence[int]) -> Generator[None, None, int]:
        """Expand the nearest drafts of texts; return how many proposals came."""
        self._release(rows)
        if self._mover is None:
            return 0
        chosen = [
            (i, asked) for i in rows for asked in self._queues[i].best_open(self.histories[i].asked, self.config.beam)
        ]
        if not chosen:
            return 0
        texts = [i for i, _ in chosen]
        with torch.inference_mode():
            own = known_vectors(self.histories, chosen)
            difference = self._prior(self.targets[texts], own)
        expansion = Expansion([a.ids for _, a in chosen], texts, difference, self._condition, self._lengths)
        found, passes = yield from self._mover(expansion, own)
        count = 0
        for (i, asked), proposals, spent in zip(chosen, found, passes, strict=True):
            queue = self._queues[i]
            queue.expanded.add(asked.ids)
            self.histories[i].passes += spent
            for proposal in proposals:
                if proposal.ids not in queue.seen:
                    queue.push(proposal, asked)
                    count += 1
        return count

    def _sorted(self, drafts: Sequence[Sequence[tuple[int, ...]]], student: Forecaster) -> list[list[tuple[int, ...]]]:
        """The best draft of each text in its place, the others after it nearest first, as the student sees them."""
        guess = student.encode([ids for part in drafts for ids in part])
        out, at = [], 0
        for text, part in enumerate(drafts):
            near = (guess[at : at + len(part)] @ student.targets[text]).tolist()
            at += len(part)
            out.append([part[k] for k in sorted(range(len(part)), key=lambda k: (k > 0, -near[k]))])
        return out

    def _release(self, rows: Sequence[int]) -> None:
        """Put the drafts that wait into the queue, once a first draft was asked and the others can be compared."""
        chosen = [i for i in rows if self._queues[i].waiting and self.histories[i].asked]
        nearest = [max(self.histories[i].asked, key=lambda a: a.cosine) for i in chosen]
        waiting = [self._queues[i].waiting for i in chosen]
        changes = [[-0.01 - 0.003 * rank for rank in range(len(part))] for part in waiting]
        if self._mover is not None and self._forecaster is not None and chosen:
            own = known_vectors(self.histories, list(zip(chosen, nearest, strict=True)))
            changes = self._forecaster.changes([a.ids for a in nearest], chosen, own, waiting)
        for i, asked, part, change in zip(chosen, nearest, waiting, changes, strict=True):
            for ids, gain in zip(part, change, strict=True):
                self._queues[i].push(Proposal(ids, "draft", (0.0, 0.0, 0.0, gain), gain), asked)
            self._queues[i].waiting = []
