"""What a refinement leaves behind: the drafts that were asked, in order. Contents: `Asked`, `Refined`."""

from __future__ import annotations

from dataclasses import dataclass, field

from unembed.refinement.surrogate import NOTHING, Features


@dataclass(frozen=True)
class Asked:
    """A draft whose vector is known.

    Attributes:
        ids: its tokens, as the encoder sees them.
        text: what was sent.
        cosine: to the target.
        queries: queries spent on the text when it was found.
        move: how it was made: "draft", or the last move.
        features, parent: of the proposal and the cosine of the draft it came from; for fitting the surrogate.
        log: change of the log-likelihood since the draft of the decode, nats; the sum of those of its moves.
    """

    ids: tuple[int, ...]
    text: str
    cosine: float
    queries: int
    move: str
    features: Features = NOTHING
    parent: float = 0.0
    log: float = 0.0


@dataclass
class Refined:
    """What became of one text.

    Attributes:
        asked: every draft that was asked, in order.
        passes: denoiser passes of the search, those of the drafts left out.
        queries: texts sent for it.
        met: whether the target's vector was met, up to the tolerance.
    """

    asked: list[Asked] = field(default_factory=list)
    passes: int = 0
    queries: int = 0
    met: bool = False

    def best(self, queries: int | None = None) -> Asked | None:
        """The nearest draft among those of the first `queries` queries; None where nothing was asked."""
        known = [a for a in self.asked if queries is None or a.queries <= queries]
        return max(known, key=lambda a: a.cosine) if known else None
