"""What the encoder would answer to proposals, as its student sees it.

Contents: `Forecaster`.

The student's errors are large beside the differences between near drafts, but alike for near drafts. So the encoder's
true answer to the draft is kept, and only the step is forecast:

    e'(y) = normalise(e(x) + s(y) - s(x)),    x the draft that was asked, y a proposal, s the student
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.network.student import StudentEncoder, student_vectors


class Forecaster:
    """Forecasts the change of the cosine that proposals bring.

    Args:
        student: the fitted student.
        table: (V, embedding_dim) token table of the denoiser.
        targets: (T, d) vectors that are inverted, unit length.
        precision: of the student's products; bf16 where that is fast.
    """

    def __init__(
        self, student: StudentEncoder, table: Tensor, targets: Tensor, precision: torch.dtype = torch.float32
    ) -> None:
        self.student, self.table, self.targets, self._type = student, table, targets, precision

    def encode(self, drafts: Sequence[tuple[int, ...]]) -> Tensor:
        """The student's vectors, (D, d) of unit length."""
        return student_vectors(self.student, self.table, drafts, self._type)

    def changes(
        self,
        drafts: Sequence[tuple[int, ...]],
        texts: Sequence[int],
        vectors: Tensor,
        proposals: Sequence[Sequence[tuple[int, ...]]],
    ) -> list[list[float]]:
        """Forecast cosine after less cosine before, to the target, for each draft's proposals.

        Args:
            drafts: D drafts that were asked.
            texts: for each the row of the targets.
            vectors: (D, d) what the encoder answered, unit length.
            proposals: for each draft the drafts to judge.
        """
        flat = [ids for part in proposals for ids in part]
        guess = self.encode([*drafts, *flat])
        own, others = guess[: len(drafts)], guess[len(drafts) :]
        owner = torch.tensor(
            [i for i, part in enumerate(proposals) for _ in part], dtype=torch.long, device=guess.device
        )
        target = self.targets[torch.tensor(list(texts), device=guess.device)]
        forecast = F.normalize(vectors[owner] + others - own[owner], dim=-1)
        change = ((forecast - vectors[owner]) * target[owner]).sum(1).tolist()
        out, at = [], 0
        for part in proposals:
            out.append(change[at : at + len(part)])
            at += len(part)
        return out
