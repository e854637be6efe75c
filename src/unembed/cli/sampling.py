"""Rows drawn with a seed instead of the first ones. Contents: `row_options`, `reservoir`, `limited`,
`limited_batches`.

A draw reads the whole input once and holds the rows that are drawn; they keep their order, ids and numbers.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.stores.protocol import VectorBatch

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def row_options(what: str, option: str = "--limit-rows") -> Callable[[F], F]:
    """Add --limit-rows and --sample, which draws as many rows as it says."""
    limit = option.removeprefix("--").replace("-", "_")

    def check(context: click.Context, parameter: click.Parameter, seed: int | None) -> int | None:
        if seed is not None and context.params.get(limit) is None:
            raise InputError(f"--sample draws as many {what} as {option} says, which is not given.", f"Add {option} N.")
        return seed

    def decorate(command: F) -> F:
        command = click.option(
            "--sample",
            type=click.IntRange(0),
            metavar="SEED",
            callback=check,
            help=f"With {option}: draw the {what} with this seed instead of taking the first.",
        )(command)
        first = f"Only the first N {what}."
        return click.option(option, type=click.IntRange(1), metavar="N", is_eager=True, help=first)(command)

    return decorate


def reservoir(
    stream: Iterable[T], count: int, seed: int, keep: Callable[[T], T] = lambda item: item
) -> tuple[list[T], int]:
    """Draw `count` items of a stream of unknown length, each with the same probability (Vitter 1985, algorithm R).

    Args:
        stream: read to its end; only the drawn items are held.
        count: items; all of them where there are fewer.
        seed: of the draw.
        keep: what is held of an item.

    Returns:
        The items in their order, and how many the stream had.
    """
    generator = random.Random(seed)
    held: list[tuple[int, T]] = []
    total = 0
    for total, item in enumerate(stream, 1):
        if len(held) < count:
            held.append((total, keep(item)))
        elif (place := generator.randrange(total)) < count:
            held[place] = (total, keep(item))
    return [item for _, item in sorted(held, key=lambda entry: entry[0])], total


def limited(stream: Iterable[T], limit: int | None, seed: int | None) -> Iterator[T]:
    """All items, the first `limit`, or where there is a seed so many drawn ones, which are read at the first `next`."""
    if limit is None or seed is None:
        yield from itertools.islice(stream, limit)
    else:
        yield from reservoir(stream, limit, seed)[0]


def limited_batches(
    batches: Iterable[VectorBatch], limit: int | None, seed: int | None, size: int
) -> Iterator[VectorBatch]:
    """Batches of all rows, of the first `limit`, or where there is a seed of so many drawn ones, `size` a batch."""
    if limit is None or seed is None:
        yield from _first(batches, limit)
        return
    rows = ((batch, i) for batch in batches for i in range(len(batch)))
    drawn, _ = reservoir(rows, limit, seed, lambda row: (row[0].take([row[1]]), 0))
    for names, part in itertools.groupby((batch for batch, _ in drawn), key=lambda batch: list(batch.metadata)):
        while chunk := list(itertools.islice(part, size)):
            yield _joined(chunk, names)


def _joined(rows: list[VectorBatch], names: list[str]) -> VectorBatch:
    """One batch of batches of one row."""
    import numpy as np

    from unembed.stores.protocol import VectorBatch

    return VectorBatch(
        [row.ids[0] for row in rows],
        np.concatenate([row.vectors for row in rows]),
        {name: [row.metadata[name][0] for row in rows] for name in names},
        rows[0].row(0),
        [row.row(0) for row in rows],
    )


def _first(batches: Iterable[VectorBatch], count: int | None) -> Iterator[VectorBatch]:
    """Cut the stream before the row with the number `count`; rows that were skipped count too."""
    seen = 0
    for batch in batches:
        if not len(batch):
            continue
        begin = max(batch.start, seen)  # a store of another package may number every batch from 0
        rows = batch.rows if batch.rows is not None else range(begin, begin + len(batch))
        left = len(batch) if count is None else sum(row < count for row in rows)
        if left:
            yield batch.head(left)
        seen = rows[-1] + 1
        if count is not None and seen >= count:
            return
