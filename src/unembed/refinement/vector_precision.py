"""What a store's numbers leave of a vector: which precision it is, and how near a text can come at that precision.

Contents: `VectorPrecision`, `KINDS`, `precision_tolerance`, `precision_of`.

A vector that was stored as fp16, bf16, int8 or single bits never has cosine 1 to the encoder's own answer. So the
answer is rounded in the same way before it is compared, wherever it is known how; then the text itself has cosine 1
again, up to the noise of the arithmetic. Where only the kind of numbers is known and not their scale, a text counts as
met within the distance that such a rounding moves a vector by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from unembed.decoding.request import as_array
from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.stores.quantised import Quantisation

NOISE = 1e-5
"""1 - cosine that fp32 encoders differ by between batches, with room to spare."""

_SAMPLES = 256


def _float16(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float16).astype(np.float32)


def _bfloat16(rows: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)
    out: np.ndarray = rounded.view(np.float32)
    return out


def _int8(rows: np.ndarray) -> np.ndarray:
    scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30) / 127
    out: np.ndarray = (np.round(rows / scale) * scale).astype(np.float32)
    return out


def _binary(rows: np.ndarray) -> np.ndarray:
    return np.where(rows > 0, 1.0, -1.0).astype(np.float32)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "float32": lambda rows: rows.astype(np.float32),
    "float16": _float16,
    "bfloat16": _bfloat16,
    "int8": _int8,
    "binary": _binary,
}
"""Kind of numbers -> what is left of float32 rows (n, d); int8 with one scale per row, from its largest number."""


@cache
def precision_tolerance(kind: str, dimension: int, quantile: float = 0.99) -> float:
    """Measure 1 - cosine between unit vectors and what a rounding leaves of them, on seeded random directions.

    Args:
        kind: a key of `KINDS`.
        dimension: of the vectors.
        quantile: of the samples that lie within the tolerance.

    Returns:
        The measured quantile, at least `NOISE`.

    Raises:
        InputError: an unknown kind.
    """
    if kind not in KINDS:
        raise InputError(f"There is no kind of numbers {kind!r}.", f"Use one of: {', '.join(KINDS)}.")
    rows = np.random.default_rng([dimension]).standard_normal((_SAMPLES, dimension))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rounded = KINDS[kind](rows).astype(np.float64)
    cosine = (rows * rounded).sum(1) / np.maximum(np.linalg.norm(rounded, axis=1), 1e-30)
    return max(NOISE, float(np.quantile(1 - cosine, quantile)))


@dataclass(frozen=True)
class VectorPrecision:
    """The precision of some vectors.

    Attributes:
        kind: a key of `KINDS`, or "scaled" where the store's own scale is known.
        tolerance: 1 - cosine within which a text's vector is that of the target.
        apply: does to an encoder's answer (n, d) what the store did; None where that is not known.
    """

    kind: str = "float32"
    tolerance: float = NOISE
    apply: Callable[[np.ndarray], np.ndarray] | None = None

    def round(self, vectors: np.ndarray) -> np.ndarray:
        """Encoder's answers (n, d) as the store would hold them; as they are where that is not known."""
        return vectors if self.apply is None else self.apply(vectors)


def precision_of(vectors: Any, quantisation: Quantisation | None = None) -> VectorPrecision:
    """Find the precision of vectors by looking at their numbers.

    All rows must be of one kind: numbers that fp16 or bf16 can hold, one absolute value (bits), whole numbers or whole
    numbers times a scale per row up to 127 (int8). Everything else is taken for float32.

    Args:
        vectors: (n, d), as they were stored or as a reader decoded them.
        quantisation: what the reader was told; a scale or offset of its own makes the rounding known exactly.
    """
    rows = as_array(vectors)
    if rows.ndim == 1:
        rows = rows[None]
    if quantisation is not None and quantisation.scale is not None:
        return VectorPrecision("scaled", NOISE, quantisation.round)
    if not rows.size or rows.ndim != 2 or rows.dtype.kind not in "fiu":
        return VectorPrecision()
    kind = _kind(rows)
    if kind == "int8" and not bool((rows == np.round(rows)).all()):
        return VectorPrecision(kind, NOISE, KINDS[kind])  # one scale per row: its largest number is 127 steps
    if kind == "int8":
        return VectorPrecision(kind, precision_tolerance(kind, rows.shape[1]))
    return VectorPrecision(kind, NOISE, None if kind == "float32" else KINDS[kind])


def _kind(rows: np.ndarray) -> str:
    """The least precise kind that holds all these numbers."""
    if rows.dtype == np.float16:
        return "float16"
    if rows.dtype.kind in "iu":
        return "binary" if np.unique(np.abs(rows)).size == 1 else "int8"
    size = np.abs(rows).max(axis=1, keepdims=True)
    if rows.shape[1] > 1 and bool((np.abs(rows) == size).all()):
        return "binary"
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if bool((rows == np.round(rows)).all()) and size.max() <= 255:
            return "int8"
        if bool((_bfloat16(rows) == rows).all()):
            return "bfloat16"
        if bool((_float16(rows) == rows).all()):
            return "float16"
        steps = rows * (127 / size)
        if rows.shape[1] >= 16 and bool((np.abs(steps - np.round(steps)) < 1e-3).all()):
            return "int8"
    return "float32"
