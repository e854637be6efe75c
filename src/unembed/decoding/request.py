"""What one call decodes: checked vectors, options and constraints, ready for the loop.

Contents: `Request`, `batch_starts`, `split_options`, `resolve_options`, `DECODE_OPTIONS`, `CONSTRAINT_NAMES`;
`as_array` and `vector_rows`, whose errors name the row and what was expected.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unembed.checks import nearest
from unembed.decoding import loop
from unembed.decoding.choosing import Judge
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.known import Constraints
from unembed.decoding.constraints.rules import Rules
from unembed.decoding.prior import PriorReader
from unembed.decoding.trace import Draft, Step
from unembed.errors import InputError
from unembed.network.base import Network

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)
DECODE_OPTIONS = tuple(field.name for field in dataclasses.fields(DecodeConfig))
CONSTRAINT_NAMES = tuple(field.name for field in dataclasses.fields(Constraints))


@dataclass(frozen=True)
class Request:
    """Vectors, and all that their decode needs.

    Attributes:
        denoiser: the network.
        rows: (n, d) float32, checked.
        config: the options, every field set.
        rules: constraints of the n texts, or None.
        priors: what the strategy prior reads, None for the others.
        judge: the student that choose = "student" asks, else None.
    """

    denoiser: Network
    rows: np.ndarray
    config: DecodeConfig
    rules: Rules | None = None
    priors: PriorReader | None = None
    judge: Judge | None = None

    def drafts(self, batch_size: int | None = None, trace: bool = False, progress: bool = False) -> list[Draft]:
        """Decode batch by batch: one draft per row, with its alternatives."""
        size = self.config.batch_size if batch_size is None else batch_size
        parts = (self.part(rows) for rows in batch_starts(len(self.rows), size, progress))
        return [draft for part in parts for draft in loop.finish(part.passes(trace))]

    def passes(self, trace: bool = False, top: int = 0, live: bool = False) -> Generator[list[Step], None, list[Draft]]:
        """Decode all rows together, step by step; see `loop.passes`."""
        vectors, shown = torch.from_numpy(self.rows), {"trace": trace, "top": top, "live": live}
        more: dict[str, Any] = {"rules": self.rules, "priors": self.priors, "judge": self.judge, **shown}
        return loop.passes(self.denoiser, vectors, self.config, **more)

    def stream(self) -> Iterator[Step]:
        """Decode one row, step by step; see `loop.stream`.

        Raises:
            InputError: more than one row, or none.
        """
        if len(self.rows) != 1:
            raise InputError(f"{len(self.rows)} vectors cannot be streamed.", "Pass one vector.")
        more: dict[str, Any] = {"rules": self.rules, "priors": self.priors, "judge": self.judge}
        return loop.stream(self.denoiser, torch.from_numpy(self.rows[0]), self.config, **more)

    def part(self, rows: slice) -> Request:
        """The same for some of the rows."""
        rules = None if self.rules is None else self.rules.part(rows)
        return dataclasses.replace(self, rows=self.rows[rows], rules=rules)


def batch_starts(rows: int, batch_size: int, progress: bool = False) -> Iterator[slice]:
    """Yield the batches of so many rows.

    Args:
        rows: how many there are.
        batch_size: rows per batch.
        progress: show a bar on stderr.

    Raises:
        InputError: a batch size below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}.", "Use a whole number of at least 1.")
    starts: Any = range(0, rows, batch_size)
    if progress:
        from rich.console import Console
        from rich.progress import track

        starts = track(starts, description="Inverting", console=Console(stderr=True))
    for start in starts:
        yield slice(start, start + batch_size)


def split_options(options: Mapping[str, Any]) -> tuple[Constraints, dict[str, Any]]:
    """Tell constraints from options of the decode.

    Raises:
        InputError: constraints that make no sense.
    """
    named = {name: value for name, value in options.items() if name in CONSTRAINT_NAMES}
    return Constraints(**named), {k: v for k, v in options.items() if k not in named}


def resolve_options(
    options: Mapping[str, Any], defaults: Mapping[str, Any], has_student: Callable[[], bool] = lambda: True
) -> DecodeConfig:
    """Join options with a checkpoint's defaults, which hold where `options` name no other strategy.

    Args:
        options: fields of `DecodeConfig`.
        defaults: of the checkpoint: its best strategy, with options.
        has_student: whether there is a student encoder, which choose = "student" needs.

    Raises:
        InputError: an unknown option, or one that makes no sense.
    """
    if options.get("strategy", defaults.get("strategy")) != defaults.get("strategy"):
        defaults = {}
    elif options.get("temperature") or options.get("samples", 1) > 1:
        defaults = {k: v for k, v in defaults.items() if k != "beam"}  # what is sampled has no beam
    for name in options:
        if name not in DECODE_OPTIONS:
            known = (*DECODE_OPTIONS, *CONSTRAINT_NAMES)
            hint = nearest(name, known, f"Options: {', '.join(known)}.")
            raise InputError(f"There is no decoding option {name!r}.", hint)
    config = DecodeConfig(**{**defaults, **options})
    if config.choose == "student" and not has_student():
        if "choose" in options:
            raise InputError(
                'This checkpoint has no student encoder, which choose = "student" needs.',
                'Set choose = "likelihood", or train a student (docs/training.md).',
            )
        _log.warning("No student encoder is next to the checkpoint: drafts are chosen by their likelihood alone")
        config = dataclasses.replace(config, choose="likelihood")
    return config


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
        _log.info("Vectors are scaled to length 1, as %s makes them (lengths found: up to %.3g).", encoder, norms.max())
        rows = (rows / norms[:, None]).astype(np.float32)
    return rows
