"""Any number of rows, batch by batch. Contents: `batch_starts`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unembed.errors import InputError


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
