"""Rows of recovered text as parquet. Contents: `write_parquet`.

Columns of our own have fixed types; those of the ids and of kept columns are decided by all rows
(`stores/column_types.py`), so that no row can fail after those that are written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unembed.stores.column_types import Column, as_array, as_text

Row = dict[str, Any]

ROW_GROUP = 4096


def _fixed() -> dict[str, Any]:
    """The types of our own columns."""
    import pyarrow as pa

    return {
        "text": pa.string(),
        "original": pa.string(),
        **dict.fromkeys(("confidence", "p_exact", "cosine", "fit", "likelihood"), pa.float32()),
        **dict.fromkeys(("length", "passes", "queries"), pa.int64()),
        **dict.fromkeys(("tokens", "alternatives"), pa.list_(pa.string())),
        **dict.fromkeys(("given", "forced"), pa.list_(pa.bool_())),
        "token_confidence": pa.list_(pa.float32()),
    }


def write_parquet(path: Path, rows: Callable[[], Iterator[Sequence[Row]]]) -> None:
    """Write row groups of one size, however the rows come.

    Args:
        path: the file.
        rows: yields them from the first on; called twice, or three times where lists or objects have no common type.
    """
    import pyarrow as pa

    types = _fixed()
    columns: dict[str, Column] = {}
    for some in rows():
        for name in some[0] if some else ():
            if name not in types:
                columns.setdefault(name, Column()).add([row.get(name) for row in some])
    types |= {name: column.type() for name, column in columns.items()}
    try:
        _write(path, rows(), types)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        nested = [name for name in columns if pa.types.is_nested(types[name])]
        if not nested:
            raise
        _write(path, rows(), {**types, **dict.fromkeys(nested, pa.string())})


def _write(path: Path, rows: Iterator[Sequence[Row]], types: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    waiting: list[Row] = []

    def write(group: Sequence[Row]) -> None:
        nonlocal writer
        names = list(group[0])
        schema = pa.schema([(as_text(name), types[name]) for name in names])
        arrays = [as_array([row.get(name) for row in group], types[name]) for name in names]
        if writer is None:
            writer = pq.ParquetWriter(stream, schema, compression="zstd")
        writer.write_table(pa.table(arrays, schema=schema))

    with open(path, "wb") as stream:
        try:
            for some in rows:
                waiting.extend(some)
                while len(waiting) >= ROW_GROUP:
                    write(waiting[:ROW_GROUP])
                    del waiting[:ROW_GROUP]
            if waiting:
                write(waiting)
            elif writer is None:
                pq.write_table(pa.table({}), stream)
        finally:
            if writer is not None:
                writer.close()
