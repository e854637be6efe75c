"""Random numbers of a draft that do not depend on the drafts beside it.

Contents: `vector_seeds`, `Noise`.

Every draft has a generator of its own, seeded by the seed, its vector, its length and its sample number. A row
therefore decodes to the same text alone and in a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def vector_seeds(vectors: Tensor, seed: int) -> list[bytes]:
    """Digest each vector (B, d) with the seed; the base of its drafts' generators."""
    rows = vectors.detach().to("cpu", torch.float32).contiguous().numpy()
    prefix = seed.to_bytes(16, "little")
    return [hashlib.blake2b(prefix + row.tobytes(), digest_size=16).digest() for row in rows]


class Noise:
    """One generator for each draft.

    Args:
        seeds: for each draft its vector's digest, its length and its sample number.
        device: where the numbers are used.
    """

    def __init__(self, seeds: Sequence[tuple[bytes, int, int]], device: torch.device) -> None:
        self.device = device
        self.generators = []
        for base, length, sample in seeds:
            digest = hashlib.blake2b(base + f"{length}/{sample}".encode(), digest_size=8).digest()
            generator = torch.Generator(device=device)
            generator.manual_seed(int.from_bytes(digest, "little") >> 1)
            self.generators.append(generator)

    def uniform(self, drafts: Sequence[int], count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw `count` numbers in [0, 1) for each of the named drafts: (A, count)."""
        out = torch.empty(len(drafts), count, dtype=dtype, device=self.device)
        for i, draft in enumerate(drafts):
            torch.rand(count, generator=self.generators[draft], dtype=dtype, device=self.device, out=out[i])
        return out

    def gumbel(self, drafts: Sequence[int], rows: Sequence[int], vocab: int) -> Tensor:
        """Draw Gumbel noise in float64; in float32 it would lower the effective temperature (2409.02908).

        Args:
            drafts: A drafts.
            rows: how many rows of noise each of them needs.
            vocab: V.

        Returns:
            (sum of rows, V).
        """
        out = torch.empty(sum(rows), vocab, dtype=torch.float64, device=self.device)
        start = 0
        for draft, count in zip(drafts, rows, strict=True):
            part = out[start : start + count]
            torch.rand(part.shape, generator=self.generators[draft], dtype=torch.float64, device=self.device, out=part)
            start += count
        return out.log_().neg_().log_().neg_()
