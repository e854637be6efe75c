"""A fixed number of softmax columns, drawn on the device: the batch's own tokens, frequent ones, and a sample.

Contents: `DeviceColumns`.

`training/losses/shortlist.py` lets the number of columns vary with the batch; here it is fixed; the sample fills what
the batch's own tokens leave. A sampled column stands for (rest / sampled) others, so that the sum of exponentials stays
unbiased given the targets (Jean et al. 2015, arXiv 1412.2007).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = -1.0e4
"""Added to the logit of a token that cannot be output: its probability is 0 in any precision, and 0 x it is 0."""


@dataclass(frozen=True)
class Drawn:
    """K columns of a step.

    Attributes:
        tokens: (K,) their tokens.
        correction: (K,) what is added to their logits: log(rest / sampled), or `NEVER`.
        place: (V,) the column of each token; 0 for those that have none.
        enough: () bool, whether every token that must have a column has one.
    """

    tokens: Tensor
    correction: Tensor
    place: Tensor
    enough: Tensor


class DeviceColumns:
    """Draws columns.

    Args:
        always: (V,) bool, tokens that have a column in every step.
        allowed: (V,) bool, tokens that may be output.
        count: K; V for the whole vocabulary, where nothing is drawn.
    """

    def __init__(self, always: Tensor, allowed: Tensor, count: int) -> None:
        self.always, self.allowed = always, allowed
        self.count = min(count, len(allowed))
        self._number = torch.arange(len(allowed), device=allowed.device)

    def needed(self, wanted: Tensor) -> Tensor:
        """(V,) bool: tokens that must have a column, given those (any shape) of the batch."""
        return self.always.index_fill(0, wanted.reshape(-1), True)

    def draw(self, wanted: Tensor) -> Drawn:
        """Draw the columns of a step from torch's own generator of the device.

        Args:
            wanted: (R,) tokens that must have one, repeats allowed. Some may be banned: the begin token is shown.
        """
        if self.count == len(self.allowed):
            correction = torch.where(self.allowed, 0.0, NEVER)
            return Drawn(self._number, correction, self._number, torch.ones_like(self.allowed[0]))
        need = self.needed(wanted)
        # One draw orders all tokens: those that must be in, then the others at random, then those never output.
        key = torch.rand(len(need), device=need.device) + 2.0 * need
        tokens = key.masked_fill(~(self.allowed | need), -1.0).topk(self.count).indices
        sampled = self.allowed[tokens] & ~need[tokens]
        rest = (self.allowed & ~need).sum()
        correction = torch.where(sampled, (rest / sampled.sum().clamp_min(1)).log(), 0.0)
        correction = correction.masked_fill(~self.allowed[tokens], NEVER)
        place = torch.zeros_like(self._number).scatter_(0, tokens, self._number[: self.count])
        return Drawn(tokens, correction, place, need.sum() <= self.count)
