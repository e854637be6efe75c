"""From vectors and an encoder that may be asked to the nearest drafts: the one place that runs a refinement.

Contents: `Refiner`, `Refinement`, `Point`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor

from unembed.data.tokenization import Tokenizer
from unembed.decoding.choosing import token_probabilities
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.rules import Rules
from unembed.decoding.loop import decode
from unembed.decoding.prior import PriorReader
from unembed.decoding.trace import Draft
from unembed.errors import InputError
from unembed.network.base import Network
from unembed.refinement.aids import Aids
from unembed.refinement.best_of import gather
from unembed.refinement.budget import Budget
from unembed.refinement.correct import correct
from unembed.refinement.ledger import Ledger, Spent, counting_passes
from unembed.refinement.methods import DEFAULT, check_method
from unembed.refinement.refined import Asked, Refined
from unembed.refinement.search import SearchConfig, refine
from unembed.refinement.vector_precision import Rounding, RoundingEncoder

if TYPE_CHECKING:
    from unembed.encoders.protocol import Encoder

DRAFTS = 16  # that combined starts from
OTHERS = 8  # next nearest drafts that are kept beside the best
_NOTHING = Draft((), (), 0.0, 0.0, 0, 0, 0, 0.0)
Report = Callable[[int, float, float], None]


@dataclass(frozen=True)
class Point:
    """The nearest draft after some queries.

    Attributes:
        queries: spent on the text when it was found.
        cosine: to the target.
        ids: of the draft.
        text: of the draft, as it was sent.
    """

    queries: int
    cosine: float
    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Refinement:
    """What became of one text.

    Attributes:
        drafts: the nearest first, then the next nearest; their scores are cosines. Those of the decode as they were
            where nothing was asked.
        cosine: of the first to the target, None where nothing was asked.
        queries: texts sent for it.
        passes: denoiser passes, those of the drafts included.
        seconds: wall-clock of the whole batch, divided by its texts.
        met: whether the target's vector was met, up to the tolerance.
        curve: each draft that was nearer than all before.
        spent: queries -> what all texts of the batch had spent when this text had so many; for curves of the cost.
        finished: whether the refinement came to its own end.
    """

    drafts: tuple[Draft, ...]
    cosine: float | None = None
    queries: int = 0
    passes: int = 0
    seconds: float = 0.0
    met: bool = False
    curve: tuple[Point, ...] = ()
    spent: dict[int, Spent] = field(default_factory=dict)
    finished: bool = True

    def best(self, queries: int) -> Point | None:
        """The nearest draft among those of the first `queries` queries; None where nothing was asked."""
        known = [point for point in self.curve if point.queries <= queries]
        return known[-1] if known else None


class Refiner:
    """Refines batches of vectors.

    Args:
        denoiser: the network.
        tokenizer: between ids and texts.
        encoder: answers the queries; it must be the one that made the vectors.
        method: a key of `REFINEMENTS`.
        search: options of the search; its tolerance is always that of the rounding.
        rounding: precision of the vectors.
        aids: what is next to the checkpoint.

    Raises:
        InputError: an unknown method, or one that this checkpoint cannot do.
    """

    def __init__(
        self,
        denoiser: Network,
        tokenizer: Tokenizer,
        encoder: Encoder,
        method: str = DEFAULT,
        search: SearchConfig | None = None,
        rounding: Rounding | None = None,
        aids: Aids | None = None,
    ) -> None:
        self.denoiser, self.tokenizer, self.method = denoiser, tokenizer, check_method(method)
        self.rounding, self.aids = rounding or Rounding(), aids or Aids()
        self.encoder: Encoder = RoundingEncoder(encoder, self.rounding)  # type: ignore[assignment]
        self.search = replace(search or SearchConfig(), tolerance=self.rounding.tolerance)
        if method in ("search", "combined") and denoiser.token_prior is None:
            raise InputError(
                f"This checkpoint has no closed-form token prior, which the refinement {method} needs.",
                "Use the refinement best-of, or train with model.token_prior = true.",
            )
        if method == "correct" and self.aids.corrector is None:
            raise InputError(
                "This checkpoint has no corrector, which the refinement correct needs.",
                "Use search or combined, or a checkpoint that was trained to correct drafts.",
            )

    def __call__(
        self,
        vectors: Tensor,
        budget: Budget,
        config: DecodeConfig,
        *,
        rules: Rules | None = None,
        priors: PriorReader | None = None,
        report: Report | None = None,
        salvage: Callable[[list[Refinement]], None] | None = None,
    ) -> list[Refinement]:
        """Refine a batch of T vectors.

        Args:
            vectors: (T, d).
            budget: of each text.
            config: of the first decode.
            rules: constraints of the texts; only best-of keeps them.
            priors: for the strategy prior.
            report: called after each round with the most queries of a text, the mean cosine and the texts met.
            salvage: called with the best drafts so far where something interrupts the refinement (Ctrl-C, an encoder
                that fails), before the exception continues; not while the first drafts are made.

        Returns:
            One refinement per text.

        Raises:
            InputError: constraints that the method cannot keep.
            EncoderError: the encoder fails.
        """
        if rules is not None and self.method != "best-of":
            raise InputError(
                f"The refinement {self.method} changes drafts without regard to what is known of the text.",
                "Use the refinement best-of, which keeps constraints, or leave the constraints out.",
            )
        began = time.monotonic()
        with counting_passes(self.denoiser) as passes:
            count = max(budget.queries, 1) if self.method == "best-of" else DRAFTS
            if self.method in ("search", "correct"):
                drafts, spent = self._decoded(vectors, config, rules, priors)
            else:
                drafts, spent = gather(self.denoiser, vectors, config, count, rules, priors)
            ledger = Ledger(self.encoder, self.tokenizer, passes, began)
            found: list[Refined] = []
            left = self._left(budget, spent, time.monotonic() - began)
            try:
                self._refine(vectors, drafts, ledger, left, count, report, found)
            except BaseException:
                if salvage is not None:
                    seconds = (time.monotonic() - began) / max(len(vectors), 1)
                    salvage(self._salvaged(drafts, spent, found, seconds))
                raise
            kept = [_nearest(result.asked) for result in found]
            judged = self._judge(vectors, kept, drafts)
        seconds = (time.monotonic() - began) / max(len(vectors), 1)
        return [
            Refinement(
                drafts=tuple(judged[i]) or tuple(drafts[i]) or (_NOTHING,),
                cosine=kept[i][0].cosine if kept[i] else None,
                queries=result.queries,
                passes=spent[i] + result.passes,
                seconds=seconds,
                met=result.met,
                curve=_curve(result),
                spent={a.queries: ledger.when[a.text] for a in result.asked},
            )
            for i, result in enumerate(found)
        ]

    def _decoded(
        self, vectors: Tensor, config: DecodeConfig, rules: Rules | None, priors: PriorReader | None
    ) -> tuple[list[list[Draft]], list[int]]:
        """The drafts of one decode, best first, and the passes of each text."""
        found = decode(self.denoiser, vectors, config, rules=rules, priors=priors)
        drafts = [[replace(draft, alternatives=()), *draft.alternatives] for draft in found]
        return [[one for one in part if one.ids] for part in drafts], [draft.spent for draft in found]

    def _left(self, budget: Budget, spent: Sequence[int], seconds: float) -> Budget:
        """What the drafts have left of a budget; they are always made."""
        passes = None if budget.passes is None else max(budget.passes - max(spent, default=0), 0)
        left = None if budget.seconds is None else max(budget.seconds - seconds, 1e-3)
        return Budget(budget.queries, passes, left)

    def _refine(
        self,
        vectors: Tensor,
        drafts: Sequence[Sequence[Draft]],
        ledger: Ledger,
        budget: Budget,
        count: int,
        report: Report | None,
        results: list[Refined],
    ) -> None:
        """Run the method; `results` holds what it finds from its beginning."""
        config = self.search
        if self.method == "best-of":
            config = replace(config, first=count, ask=count, moves=())
            budget = replace(budget, passes=None)
        ids = [[draft.ids for draft in part] for part in drafts]
        if self.method == "correct" and self.aids.corrector is not None:
            network, tolerance = self.aids.corrector, self.search.tolerance
            ids = [part[:1] for part in ids]
            correct(network, self.denoiser, vectors, ids, ledger, budget, 4, tolerance, report, results)
            return
        refine(
            self.denoiser,
            vectors,
            ids,
            ledger,
            budget,
            config,
            student=self.aids.student,
            corrector=self.aids.corrector if self.method == "combined" else None,
            report=report,
            results=results,
        )

    def _judge(
        self, vectors: Tensor, kept: Sequence[Sequence[Asked]], drafts: Sequence[Sequence[Draft]]
    ) -> list[list[Draft]]:
        """Make drafts of what was asked; tokens that no decode has committed get a probability now."""
        known = [{draft.ids: draft for draft in part} for part in drafts]
        new = [(i, a.ids) for i, part in enumerate(kept) for a in part if a.ids not in known[i]]
        sure = dict(zip(new, token_probabilities(self.denoiser, vectors, new), strict=True))
        out = []
        for i, part in enumerate(kept):
            row = []
            for a in part:
                draft = known[i].get(a.ids)
                if draft is None:
                    length = len(a.ids)
                    draft = Draft(a.ids, sure[(i, a.ids)], 0.0, 0.0, length, 0, 0, 0.0)
                row.append(replace(draft, score=a.cosine))
            out.append(row)
        return out

    def _salvaged(
        self, drafts: Sequence[Sequence[Draft]], spent: Sequence[int], found: Sequence[Refined], seconds: float
    ) -> list[Refinement]:
        """The best so far of a refinement that was interrupted; new drafts have no probabilities."""
        out = []
        for i, part in enumerate(drafts):
            result = found[i] if found else Refined()
            known = {draft.ids: draft for draft in part}
            near = _nearest(result.asked)
            kept = []
            for one in near:
                length = len(one.ids)
                plain = Draft(one.ids, (0.0,) * length, 0.0, 0.0, length, 0, 0, 0.0)
                kept.append(replace(known.get(one.ids, plain), score=one.cosine))
            out.append(
                Refinement(
                    drafts=tuple(kept) or tuple(part) or (_NOTHING,),
                    cosine=near[0].cosine if near else None,
                    queries=result.queries,
                    passes=spent[i] + result.passes,
                    seconds=seconds,
                    met=result.met,
                    finished=False,
                )
            )
        return out


def _nearest(asked: Sequence[Asked]) -> list[Asked]:
    """The nearest drafts that were asked, each once."""
    best: dict[tuple[int, ...], Asked] = {}
    for one in sorted(asked, key=lambda a: -a.cosine):
        best.setdefault(one.ids, one)
    return list(best.values())[: OTHERS + 1]


def _curve(result: Refined) -> tuple[Point, ...]:
    """The drafts that were nearer than all before."""
    points: list[Point] = []
    for one in result.asked:
        if not points or one.cosine > points[-1].cosine:
            points.append(Point(one.queries, one.cosine, one.ids, one.text))
    return tuple(points)
