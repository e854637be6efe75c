"""Cosine between vectors, and the floor without which it says little.

- `row_cosine`: pairs.
- `floor_cosine`: the same texts paired at random. Cosine saturates near 1 and starts well above 0, so every table
  prints this beside it.
- `nearest_cosine`: the closest row of a bank, for the bins by distance from training and for the neighbour baseline.
"""

from __future__ import annotations

import numpy as np

from unembed.errors import InputError


def normalise_rows(vectors: np.ndarray) -> np.ndarray:
    """Divide each row of `vectors` (n, d) by its norm; float32. Zero rows stay zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms == 0, 1, norms)


def row_cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of row i of `a` (n, d) with row i of `b` (n, d): (n,) float64 in [-1, 1].

    Raises:
        InputError: the shapes differ.
    """
    if np.shape(a) != np.shape(b) or np.ndim(a) != 2:
        raise InputError(
            f"Cosine needs two matrices of one shape, got {np.shape(a)} and {np.shape(b)}.",
            "Pass one recovered vector for each target vector.",
        )
    value = np.einsum("nd,nd->n", normalise_rows(a).astype(np.float64), normalise_rows(b).astype(np.float64))
    clipped: np.ndarray = np.clip(value, -1.0, 1.0)
    return clipped


def floor_cosine(a: np.ndarray, b: np.ndarray, seed: int = 0) -> np.ndarray:
    """Cosine of row i of `a` (n, d) with a random other row of `b` (n, d): (n,).

    The pairing is one cycle through all rows in a seeded order, so no row meets itself (with n = 1 it has to).
    """
    order = np.random.default_rng([seed, len(a)]).permutation(len(a))
    partner = np.empty(len(a), dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return row_cosine(a, np.asarray(b)[partner])


def nearest_cosine(queries: np.ndarray, bank: np.ndarray, block: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """Find the row of `bank` (m, d) with the largest cosine to each of `queries` (n, d).

    The bank is read in blocks, so a memory map in float16 works without being held in memory.

    Returns:
        (index (n,) int64, cosine (n,) float64). Ties go to the lower index.
    """
    queries = normalise_rows(queries)
    if len(bank) == 0 or np.ndim(bank) != 2 or bank.shape[1] != queries.shape[1]:
        raise InputError(
            f"A bank of shape {np.shape(bank)} has no neighbours for vectors of {queries.shape[1]} dimensions.",
            "Use training vectors of the same encoder.",
        )
    best = np.full(len(queries), -np.inf, dtype=np.float32)
    index = np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(bank), block):
        scores = queries @ normalise_rows(bank[start : start + block]).T
        here = scores.argmax(axis=1)
        value = scores[np.arange(len(queries)), here]
        better = value > best
        best[better], index[better] = value[better], here[better] + start
    return index, np.clip(best.astype(np.float64), -1.0, 1.0)
