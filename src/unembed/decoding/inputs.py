"""What a caller passes to be decoded, checked: vectors and given tokens. Errors name the row and what was expected.

Contents: `as_array`, `vector_rows`, `given_tokens`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from unembed.errors import InputError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def as_array(vectors: Any) -> np.ndarray:
    """Turn an array, a tensor, nested lists, or a column of arrays (pandas, polars, pyarrow) into one array.

    Raises:
        TypeError, ValueError: there is no such array; rows of a column differ in shape.
    """
    if hasattr(vectors, "detach"):  # a torch tensor of any type, on any device
        vectors = vectors.detach().cpu()
        try:
            vectors = vectors.numpy()
        except TypeError:  # numpy has no bf16
            vectors = vectors.float().numpy()
    rows = np.asarray(vectors)
    if rows.dtype != object or rows.ndim != 1 or not rows.size:
        return rows
    parts = [as_array(row) for row in rows]
    odd = next((i for i, part in enumerate(parts) if part.shape != parts[0].shape), None)
    if odd is not None:
        raise ValueError(f"row {odd} has the shape {parts[odd].shape}, row 0 has {parts[0].shape}")
    return np.stack(parts)


def vector_rows(vectors: Any, dimension: int, encoder: str, normalised: bool = False) -> np.ndarray:
    """Turn what a caller passes into rows that can be inverted.

    Args:
        vectors: array, tensor, nested list or column of arrays, (n, d) or (d,).
        dimension: d.
        encoder: name of the encoder, for messages.
        normalised: whether the encoder makes vectors of length 1; rows of another length are then scaled to it.

    Returns:
        float32 (n, d).

    Raises:
        InputError: not numbers, wrong rank, wrong dimension, NaN, infinity or a row of zeros.
    """
    expected = f"the checkpoint expects vectors of dimension {dimension} made by {encoder}"
    try:
        rows = as_array(vectors)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The vectors are not an array of numbers ({error}); {expected}.",
            f"Pass numbers of shape (n, {dimension}).",
        ) from error
    if rows.dtype.kind not in "fiu":
        raise InputError(
            f"The vectors are an array of type {rows.dtype}, not of numbers; {expected}.",
            f"Pass float32 of shape (n, {dimension}), or a column whose rows are arrays of {dimension} numbers.",
        )
    if rows.ndim == 1 and rows.shape != (0,):
        rows = rows[None]
    if rows.size == 0 and rows.shape[0] == 0:
        return np.zeros((0, dimension), dtype=np.float32)
    if rows.ndim != 2:
        raise InputError(
            f"The vectors have {rows.ndim} axes (shape {rows.shape}); {expected}.",
            f"Pass one vector of shape ({dimension},) or several of shape (n, {dimension}).",
        )
    if rows.shape[1] != dimension:
        raise InputError(
            f"The vectors have dimension {rows.shape[1]} (row 0 and all others); {expected}.",
            "Use vectors of that encoder, or a checkpoint trained for yours.",
        )
    with np.errstate(over="ignore"):
        rows = np.require(rows, np.float32, ["C", "W"])  # writable: torch warns of arrays that are not
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise InputError(
            f"Row {int(bad.argmax())} of the vectors holds NaN or infinite values; {expected}.",
            f"Remove or repair that row ({int(bad.sum())} of {len(rows)} are affected).",
        )
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    if (norms == 0).any():
        raise InputError(
            f"Row {int((norms == 0).argmax())} of the vectors is all zeros; {expected}.",
            "Remove that row: it holds nothing to recover.",
        )
    if normalised and np.abs(norms - 1).max() > 1e-3:
        log.info("Vectors are scaled to length 1, as %s makes them (lengths found: up to %.3g).", encoder, norms.max())
        rows = (rows / norms[:, None]).astype(np.float32)
    return rows


def given_tokens(given: Any, rows: int) -> torch.Tensor:
    """Turn known tokens into int64 (rows, up to max_length), -1 where a token is unknown.

    Args:
        given: array or nested list of whole numbers, (rows, up to max_length), or one row where `rows` is 1.
        rows: number of vectors.

    Raises:
        InputError: not whole numbers, or another number of rows.
    """
    import torch

    known = np.asarray(given)
    if known.dtype.kind not in "iu":
        raise InputError("Given tokens are not whole numbers.", "Pass token ids, -1 where the token is unknown.")
    if known.ndim == 1 and rows == 1:
        known = known[None]
    if known.ndim != 2 or len(known) != rows:
        raise InputError(
            f"Given tokens have shape {known.shape} for {rows} vectors.",
            "Pass one row of token ids for each vector, -1 where the token is unknown.",
        )
    return torch.from_numpy(known.astype(np.int64))
