"""What the denoiser hands from one call to the next: `Reading` (hidden rows) and `CausalState` (a draft so far)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unembed.network.conditioning import Condition


@dataclass
class Reading:
    """Hidden rows that are about to be scored.

    Attributes:
        hidden: (R, width).
        owner: (R,) index of each row's vector in the condition.
        column: (R,) position of each row.
        used: (B, n) tokens that are in the texts, the end token elsewhere.
        condition: of the B vectors.
    """

    hidden: Tensor
    owner: Tensor
    column: Tensor
    used: Tensor
    condition: Condition

    def __len__(self) -> int:
        """Return the number of rows R."""
        return len(self.owner)


@dataclass
class CausalState:
    """Keys and values of a left-to-right draft so far.

    Attributes:
        condition: the vectors' condition, B rows.
        past: for each block keys and values (B, heads, M + t, width / heads).
        index: t, the number of tokens fed.
        tokens: (B, t) the tokens fed, the begin token first.
    """

    condition: Condition
    past: list[tuple[Tensor, Tensor]]
    index: int
    tokens: Tensor

    def select(self, index: Tensor) -> CausalState:
        """Return the rows named by `index` (R,), in that order; rows may repeat."""
        past = [(k[index], v[index]) for k, v in self.past]
        return CausalState(self.condition.select(index), past, self.index, self.tokens[index])
