"""What refinement may spend on a text. Free of torch.

Contents: `Budget`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from unembed.errors import InputError


@dataclass(frozen=True)
class Budget:
    """Limits of the refinement of one text; the first that is reached ends it.

    Attributes:
        queries: texts sent to the encoder for this text. A text that was sent before, for whatever row, costs nothing.
        passes: denoiser passes, those of the drafts included; None for no limit.
        seconds: wall-clock of the whole batch of texts; None for no limit.
    """

    queries: int = 0
    passes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse limits that make no sense.

        Raises:
            InputError: naming the limit.
        """
        for name in ("queries", "passes"):
            value = getattr(self, name)
            if value is None and name == "passes":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"{name} is {value!r}.", "Use a whole number of at least 0.")
        if self.seconds is not None and (not math.isfinite(self.seconds) or self.seconds <= 0):
            raise InputError(f"seconds is {self.seconds!r}.", "Use a number above 0.")
