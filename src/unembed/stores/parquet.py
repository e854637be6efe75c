"""Vectors in parquet files: a list or fixed-size-list column of numbers, read one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unembed.errors import InputError
from unembed.stores.protocol import VectorBatch, choose_ids, choose_vectors, make_batch


@dataclass(frozen=True)
class ParquetStore:
    """A store over one parquet file.

    Attributes:
        name: the path, for messages.
        path: the file.
        dimension: length of every vector, from the type or from the first row.
        count: number of rows.
        vector_name: the column that holds the vectors.
        id_name: the column that holds the ids, or None.
    """

    name: str
    path: Path
    dimension: int
    count: int
    vector_name: str
    id_name: str | None = None

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        start = 0
        try:
            with pq.ParquetFile(self.path) as file:
                for rows in file.iter_batches(batch_size=batch):
                    vectors = _to_array(rows.column(self.vector_name), self.dimension, self.name, start)
                    columns = {
                        name: rows.column(name).to_pylist() for name in rows.schema.names if name != self.vector_name
                    }
                    ids = columns.pop(self.id_name) if self.id_name is not None else None
                    yield make_batch(vectors, ids, columns, self.name, start, self.dimension)
                    start += rows.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(self.path, error) from error


def open_parquet(path: Path, column: str | None = None, id_column: str | None = None) -> ParquetStore:
    """Open a parquet file.

    Args:
        path: the file.
        column: the vector column; None takes the only list column of numbers.
        id_column: the id column; None takes one with a usual name, else rows are numbered.

    Raises:
        InputError: not parquet, no rows, no vector column or several.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema, count = file.schema_arrow, file.metadata.num_rows
            tables = {part.name: str(part.type) for part in schema if _holds_numbers(part.type)}
            name = choose_vectors(tables, column, str(path))
            kind = schema.field(name).type
            if pa.types.is_fixed_size_list(kind):
                dimension = kind.list_size
            else:
                first = next(file.iter_batches(batch_size=1, columns=[name]), None)
                dimension = len(first.column(0)[0].as_py() or []) if first is not None and first.num_rows else 0
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error
    if count == 0:
        raise InputError(f"{path} has no rows.", "Give a file with at least one vector.")
    if dimension == 0:
        raise InputError(f"Row 0 of {path} has no vector in column {name!r}.", "Remove rows without a vector.")
    id_name = choose_ids([part for part in schema.names if part != name], id_column, str(path))
    return ParquetStore(str(path), path, int(dimension), int(count), name, id_name)


def _holds_numbers(kind: Any) -> bool:
    """Say whether an arrow type is a list of real numbers."""
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(check(kind) for check in lists):
        return False
    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def _to_array(column: Any, dimension: int, source: str, start: int) -> Any:
    """Turn a list column into an array (n, d); the error names the first row that does not fit."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count:
        row = start + int(np.argmax(np.asarray(column.is_null())))
        raise InputError(f"Row {row} of {source} has no vector.", "Remove rows without a vector.")
    if not pa.types.is_fixed_size_list(column.type):
        lengths = np.asarray(pc.list_value_length(column))
        if (lengths != dimension).any():
            row = int(np.argmax(lengths != dimension))
            raise InputError(
                f"Row {start + row} of {source} has a vector of dimension {lengths[row]}; row 0 has {dimension}.",
                "Keep vectors of one encoder in a file, or name the right column with --column.",
            )
    values = column.flatten()
    if values.null_count:
        row = start + int(np.argmax(np.asarray(values.is_null()))) // dimension
        raise InputError(f"Row {row} of {source} has a vector with a missing value.", "Remove that row.")
    return values.to_numpy(zero_copy_only=False).reshape(len(column), dimension)


def _unreadable(path: Path, error: BaseException) -> InputError:
    """Make the error for a file that is not parquet or is damaged."""
    line = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return InputError(f"{path} cannot be read as parquet ({line}).", "Restore the file from where it was made.")
