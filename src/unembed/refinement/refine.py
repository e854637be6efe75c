"""What a caller asks of a refinement. Free of torch, so that the command line can show the methods fast.

Contents: `METHODS` (names and one line each), `DEFAULT`, `Refine`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unembed.checks import nearest
from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.refinement.search import SearchConfig
    from unembed.refinement.vector_precision import VectorPrecision

METHODS: dict[str, str] = {
    "best-of": "drafts over the likely lengths, one query each; the nearest is kept",
    "correct": "a network that sees a draft and its vector corrects it, again and again; needs a corrector",
    "search": "drafts are changed token by token; the most promising changes are asked; the default",
    "combined": "many different drafts, corrections and the search together",
}
DEFAULT = "search"


@dataclass(frozen=True)
class Refine:
    """How drafts are refined with queries, and what that may cost; the first limit that is reached ends it.

    Attributes:
        queries: texts sent to the encoder for each vector; 0 is a decode without any. A text that was sent before, for
            whatever row, costs nothing.
        method: a key of `METHODS`.
        passes: denoiser passes for each vector, those of the drafts included; None for no limit.
        seconds: wall-clock of a batch of vectors, its drafts included, which are always made; None for no limit.
        tolerance: 1 - cosine within which a vector counts as matched; that of `vector_precision` where None.
        vector_precision: of the vectors; found in their numbers where None.
        search: options of the search; its defaults where None.

    Raises:
        InputError: an unknown method or a limit that makes no sense.
    """

    queries: int
    method: str = DEFAULT
    passes: int | None = None
    seconds: float | None = None
    tolerance: float | None = None
    vector_precision: VectorPrecision | None = None
    search: SearchConfig | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if isinstance(self.search, dict):
            raise InputError("search is a dict.", "Pass unembed.refinement.search.SearchConfig(...).")
        if self.method not in METHODS:
            hint = nearest(self.method, METHODS, f"Use one of: {', '.join(METHODS)}.")
            raise InputError(f"There is no refinement {self.method!r}.", hint)
        for name in ("queries", "passes"):
            value = getattr(self, name)
            if value is None and name == "passes":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"{name} is {value!r}.", "Use a whole number of at least 0.")
        if self.seconds is not None and (not math.isfinite(self.seconds) or self.seconds <= 0):
            raise InputError(f"seconds is {self.seconds!r}.", "Use a number above 0.")
        if self.tolerance is not None and not 0 <= self.tolerance <= 2:
            raise InputError(f"tolerance is {self.tolerance!r}.", "Use a number from 0 to 2.")
