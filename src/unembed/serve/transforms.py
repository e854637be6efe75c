"""What may be done to a vector before it is inverted, to see how much of the text survives.

Contents: `apply`.
"""

from __future__ import annotations

import hashlib

import numpy as np


def apply(
    vectors: np.ndarray, dimensions: int | None = None, noise: float = 0.0, bits: int = 32, seed: int = 0
) -> np.ndarray:
    """Cut, then add noise, then round vectors.

    Args:
        vectors: (n, d).
        dimensions: components kept, the first ones; the others become 0. None keeps all.
        noise: standard deviation of the Gaussian noise on each kept component, relative to the vector's norm.
        bits: of each component. With b of 2 to 31, 2^b - 1 evenly spaced levels up to the largest magnitude of the
            vector; with 1 the signs, at the mean magnitude; 32 leaves float32.
        seed: of the noise. A row's noise depends on the seed and the row alone; more noise is the same noise, longer.

    Returns:
        float32 (n, d).
    """
    out = np.array(vectors, dtype=np.float64)
    kept = out.shape[1] if dimensions is None else min(dimensions, out.shape[1])
    out[:, kept:] = 0
    for given, row in zip(np.asarray(vectors, dtype=np.float32), out, strict=True):
        part = row[:kept]
        if noise:
            digest = int.from_bytes(hashlib.sha256(given.tobytes()).digest()[:8], "big")
            part += np.random.default_rng([seed, digest]).normal(0, noise * np.linalg.norm(row), kept)
        if bits == 1:
            part[:] = np.sign(part) * np.abs(part).mean()
        elif bits < 32 and (top := np.abs(part).max()) > 0:
            levels = 2 ** (bits - 1) - 1
            part[:] = np.round(part / top * levels) / levels * top
    return out.astype(np.float32)
