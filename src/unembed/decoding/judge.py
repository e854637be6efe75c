"""A student encoder as a judge of finished drafts: which of them would have made the vector? No query is sent.

Contents: `Judge`.

The network's own likelihood sees a draft from the inside, token by token. A student (`network/student.py`) sees it from
the outside, as the encoder did. Together they choose better than either (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.network.student import StudentEncoder, student_vectors


class Judge:
    """Compares drafts with the vectors that they were made for.

    Args:
        student: trained beside the denoiser.
        table: (V, embedding_dim) token table of the denoiser.
    """

    def __init__(self, student: StudentEncoder, table: Tensor) -> None:
        self.student, self.table = student, table

    def cosines(self, drafts: Sequence[tuple[int, ...]], owner: Sequence[int], vectors: Tensor) -> list[float]:
        """Cosine between the student's vector of each draft and the vector that the draft is for.

        Args:
            drafts: D token id sequences; an empty one gets -1.
            owner: (D,) row of `vectors` of each.
            vectors: (B, d) raw encoder vectors.
        """
        if not drafts:
            return []
        guess = student_vectors(self.student, self.table, drafts, self.table.dtype)
        target = F.normalize(vectors.float(), dim=1)[torch.as_tensor(owner, device=vectors.device)]
        cosine = (guess * target.to(guess.device)).sum(1)
        return [value if draft else -1.0 for draft, value in zip(drafts, cosine.tolist(), strict=True)]
