"""Columns of Arrow tables, as parquet and Arrow IPC files hold them: which hold vectors, and vectors out of them.

A vector column is a list, large list, fixed-size list or one-dimensional fixed-shape tensor of real numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from unembed.errors import InputError
from unembed.stores.cells import cells
from unembed.stores.protocol import VectorBatch, choose_ids, choose_others, choose_vectors, make_batch
from unembed.stores.quantised import choose_scales
from unembed.stores.reading import NO_ROWS, Reading, check_width, translated

_REMOVE = "Remove rows without a vector."


@dataclass(frozen=True)
class Columns:
    """The columns of a table of vectors.

    Attributes:
        source: what messages call the store.
        width: numbers stored a row.
        vector_name: the column that holds the vectors.
        id_name: the column that holds the ids, or None.
        scale_name: the column that holds one scale a row, or None.
        others: the columns that become metadata.
        reading: what the numbers mean and what happens to bad rows.
    """

    source: str
    width: int
    vector_name: str
    id_name: str | None
    scale_name: str | None
    others: tuple[str, ...]
    reading: Reading

    @property
    def used(self) -> list[str]:
        """The columns that are read at all."""
        names = (self.vector_name, self.id_name, self.scale_name, *self.others)
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.reading.quantisation.dimension(self.width)

    def batch(self, table: Any, start: int) -> VectorBatch:
        """Make a batch of a pyarrow Table or RecordBatch whose first row has the number `start`.

        Raises:
            InputError: a row without a vector, of another dimension or with a missing value, unless they are skipped.
        """
        with translated(self.source, "a table"):
            column = _stored(table.column(self.vector_name))
            others = {name: cells(_flat(table.column(name))) for name in self.used if name != self.vector_name}
        values, kept = self._vectors(column, start)
        if len(kept) < len(column):
            others = {name: [values_[i] for i in kept] for name, values_ in others.items()}
        scales = others[self.scale_name] if self.scale_name is not None else None
        if scales is not None and None in scales:
            others[str(self.scale_name)] = [float("nan") if scale is None else scale for scale in scales]
        ids = others.pop(self.id_name) if self.id_name is not None else None
        rows = None if len(kept) == len(column) else [start + index for index in kept]
        return make_batch(
            values,
            ids,
            others,
            self.source,
            start,
            self.width,
            rows=rows,
            reading=self.reading,
            scales=self.scale_name,
        )

    def _vectors(self, column: Any, start: int) -> tuple[Any, list[int]]:
        """Turn a list column into an array (n, width) of its good rows, and their places in the column."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        good = np.ones(len(column), dtype=bool)
        if column.null_count:
            good = ~np.asarray(column.is_null())
            for index in np.flatnonzero(~good):
                self._reject(start + int(index), "has no vector", _REMOVE)
        if not pa.types.is_fixed_size_list(column.type):
            lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
            for index in np.flatnonzero(good & (lengths != self.width)):
                good[index] = False
                self._reject(
                    start + int(index),
                    f"has a vector of dimension {lengths[index]}; the first has {self.width}",
                    "Keep vectors of one encoder in a file, or name the right column with --column.",
                )
        if not good.all():
            column = column.filter(pa.array(good))
        places = np.flatnonzero(good)
        values = column.flatten()
        if values.null_count:
            holes = np.asarray(values.is_null()).reshape(len(places), self.width).any(axis=1)
            for index in places[holes]:
                self._reject(start + int(index), "has a vector with a missing value", "Remove that row.")
            values, places = column.filter(pa.array(~holes)).flatten(), places[~holes]
        array = values.to_numpy(zero_copy_only=False).reshape(len(places), self.width)
        return array, places.tolist()

    def _reject(self, row: int, what: str, do: str) -> None:
        self.reading.reject(row, f"Row {row} of {self.source} {what} in column {self.vector_name!r}.", do)


def choose_columns(
    schema: Any,
    peek: Callable[[list[str]], Iterable[Any]],
    source: str,
    column: str | None,
    id_column: str | None,
    reading: Reading,
) -> Columns:
    """Choose the columns of a table.

    Args:
        schema: its pyarrow schema.
        peek: reads some columns: tables or record batches, taken until the first vector tells the dimension.
        source: what messages call the store.
        column: the vector column; None takes the only list column of numbers.
        id_column: the id column; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: no vector column or several, no rows, no vector in the first row.
    """
    with translated(source, "a table"):  # names in a damaged file may be no UTF-8
        names = list(schema.names)
        tables = {part.name: str(part.type) for part in schema if _numbers(part.type) is not None}
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{source} has several columns named {double!r}.", "Give every column its own name.")
    name = choose_vectors(tables, column, source)
    kind = _storage(schema.field(name).type)
    dtype = str(_numbers(kind))
    seen = 0
    width = 0
    for table in peek([name]):
        rows = min(table.num_rows, reading.peek - seen)
        with translated(source, "a table"):
            lists = _stored(table.column(name).slice(0, rows))
            width = _width(lists, kind)
        seen += rows
        if width or seen >= reading.peek:
            break
    if not seen:
        raise InputError(f"{source} has no rows.", NO_ROWS)
    if not width:
        raise InputError(f"Row 0 of {source} has no vector in column {name!r}.", _REMOVE)
    check_width(width, source)
    others = [part for part in names if part != name]
    id_name = choose_ids(others, id_column, source)
    numeric = [part for part in others if part != id_name and _is_number(schema.field(part).type)]
    scale_name = choose_scales(numeric, dtype, reading.quantisation)
    reading.quantisation.check(width, dtype, source)
    read = choose_others([part for part in others if part != id_name], reading, source)
    return Columns(source, width, name, id_name, scale_name, tuple(read), reading)


def _width(lists: Any, kind: Any) -> int:
    """Return the length of the first list that holds anything; that of the type where it is fixed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    lengths = [length for length in pc.list_value_length(lists).to_pylist() if length]
    return int(lengths[0]) if lengths else 0


def _storage(kind: Any) -> Any:
    """Return the type under an extension type."""
    import pyarrow as pa

    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _flat(column: Any) -> Any:
    """Turn a column into one array without chunks."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        chunks = column.chunks
        column = chunks[0] if len(chunks) == 1 else column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0)
    return column


def _stored(column: Any) -> Any:
    """Turn a column into one array without chunks, of its storage type."""
    import pyarrow as pa

    column = _flat(column)
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _numbers(kind: Any) -> Any:
    """Return the type of the numbers of a list type, or None where it is no list of real numbers."""
    import pyarrow as pa

    kind = _storage(kind)
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(check(kind) for check in lists):
        return None
    return kind.value_type if _is_number(kind.value_type) else None


def _is_number(kind: Any) -> bool:
    """Say whether an arrow type is one of real numbers."""
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
