"""Whether the vectors of a file look like those that the model learnt from, said at the end. Contents: `Fitting`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unembed.decoding.recovery import Recovery

WORDS = {
    "vector": "like vectors of another encoder, or damaged ones",
    "long": "like texts longer than those that the model reads",
    "language": "like texts of a language that the model does not know",
}
_CHANCE = 0.05  # so rarely as many misfits would turn up among texts that fit
_LOW = 0.1  # a median below it, where 0.5 is usual, says something about the whole file
_FEWEST = 5  # rows that have a median


class Fitting:
    """Gathers the fit of the rows of a file, in memory that does not grow with them."""

    def __init__(self) -> None:
        self._thousandths: Counter[int] = Counter()
        self._misfits: Counter[str] = Counter()

    def add(self, found: Sequence[Recovery]) -> None:
        """Look at some rows."""
        self._thousandths.update(int(1000 * one.fit) for one in found if one.fit is not None)
        self._misfits.update(one.misfit for one in found if one.misfit is not None)

    def warning(self) -> str:
        """What is to be said of the file; empty where its rows look as they should."""
        from unembed.priors.fit_score import LIMIT

        rows, count = self._thousandths.total(), self._misfits.total()
        said = []
        if count and _poisson_tail(count, LIMIT * rows) < _CHANCE:
            kinds = "; ".join(f"{number:,} look {WORDS[name]}" for name, number in self._misfits.most_common())
            said.append(
                f"{count:,} of {rows:,} rows do not fit the model ({LIMIT:.0%} is usual): {kinds}. "
                "Their texts are guesses, whatever their likelihood; the column misfit names them."
            )
        median = self._median(rows) if rows >= _FEWEST else 1.0
        if median < _LOW:
            said.append(
                f"The fit of the whole file is {median:.2g} (median, 0.5 is usual): expect less of it than the "
                "confidence says, and check the encoder, its pooling and the length of the texts."
            )
        return " ".join(said)

    def _median(self, rows: int) -> float:
        below = 0
        for place in sorted(self._thousandths):
            below += self._thousandths[place]
            if 2 * below > rows:
                break
        return place / 1000

    def show(self, quiet: bool) -> None:
        """Print the warning, if there is one."""
        from unembed.cli.console import note

        if said := self.warning():
            note(f"Warning: {said}", quiet)


def _poisson_tail(count: int, mean: float) -> float:
    """P(X >= count) of a Poisson variable."""
    below = sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count)) if mean > 0 else 1.0
    return max(0.0, 1.0 - below)
