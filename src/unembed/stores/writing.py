"""Vectors into files: .parquet (ids, metadata, a fixed-size list of float32), .npy (vectors alone) and .jsonl.

Batches are written as they come, so memory does not grow with their number; the file is whole or absent, and readable
by its owner only, because vectors reveal their texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from unembed.errors import InputError
from unembed.files import PRIVATE, atomic_path, json_text
from unembed.stores.column_types import as_array, as_text
from unembed.stores.protocol import VectorBatch

KINDS = (".parquet", ".npy", ".jsonl")


def check_target(path: str | Path) -> Path:
    """Check that vectors can be written under that name.

    Raises:
        InputError: an unknown ending, or something of that name that is not a file.
    """
    path = Path(path)
    if path.suffix.lower() not in KINDS or (path.exists() and not path.is_file()):
        raise InputError(f"{path} is not a name for a file of vectors.", f"Use one that ends in {' or '.join(KINDS)}.")
    return path


def write_vectors(path: str | Path, batches: Iterable[VectorBatch], types: Mapping[str, Any] | None = None) -> int:
    """Write batches to a file whose ending chooses the format.

    Args:
        path: the file.
        batches: all with the same dimension and the same metadata columns.
        types: arrow types of "id" and of metadata columns, for .parquet; others are those of the first batch.

    Returns:
        The number of rows.

    Raises:
        InputError: an unknown ending, or no row at all.
        DataError: the file cannot be written.
    """
    path = check_target(path)
    writers: dict[str, Callable[[Path, Iterator[VectorBatch]], int]] = {
        ".parquet": partial(_write_parquet, types=types or {}),
        ".npy": _write_npy,
        ".jsonl": _write_jsonl,
    }
    with atomic_path(path, PRIVATE) as part:
        count = writers[path.suffix.lower()](part, (batch for batch in batches if len(batch)))
        if not count:
            raise InputError(f"There is nothing to write to {path}.", "Give at least one text that can be embedded.")
    return count


def _write_parquet(path: Path, batches: Iterator[VectorBatch], types: Mapping[str, Any]) -> int:
    """Write one row group per batch; floats are split by byte, which zstd then packs better."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def array(name: str, values: list[Any]) -> Any:
        return as_array(values, types[name]) if name in types else pa.array(values)

    writer, count = None, 0
    stream = open(path, "wb")
    try:
        for batch in batches:
            dimension = batch.vectors.shape[1]
            values = pa.array(batch.vectors.reshape(-1), pa.float32())
            columns = {
                "id": array("id", batch.ids),
                **{as_text(name): array(name, column) for name, column in batch.metadata.items()},
                "embedding": pa.FixedSizeListArray.from_arrays(values, dimension),
            }
            table = pa.table(columns)
            if writer is None:
                writer = pq.ParquetWriter(
                    stream,
                    table.schema,
                    compression="zstd",
                    compression_level=9,
                    use_dictionary=["source"] if "source" in columns else False,
                    column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT"},
                )
            writer.write_table(table)
            count += len(batch)
    finally:
        if writer is not None:
            writer.close()
        stream.close()
    return count


def _write_npy(path: Path, batches: Iterator[VectorBatch]) -> int:
    """Write the rows after a header that is written again when their number is known (numpy leaves room for that)."""
    import numpy as np
    from numpy.lib import format as npy

    count, dimension = 0, 0
    with open(path, "wb") as stream:

        def header() -> int:
            shape = {"descr": np.dtype("<f4").str, "fortran_order": False, "shape": (count, dimension)}
            npy.write_array_header_1_0(stream, shape)
            return stream.tell()

        begin = 0
        for batch in batches:
            if not count:
                dimension = batch.vectors.shape[1]
                begin = header()
            stream.write(np.ascontiguousarray(batch.vectors, dtype="<f4").tobytes())
            count += len(batch)
        stream.seek(0)
        if count and header() != begin:
            raise AssertionError("the header of a .npy file has grown")
    return count


def _write_jsonl(path: Path, batches: Iterator[VectorBatch]) -> int:
    """Write one object per line."""
    count = 0
    with open(path, "w", encoding="utf-8") as stream:
        for batch in batches:
            for row, (name, vector) in enumerate(zip(batch.ids, batch.vectors, strict=True)):
                others: dict[str, Any] = {key: column[row] for key, column in batch.metadata.items()}
                record = {"id": name, **others, "embedding": [float(f"{x:.9g}") for x in vector]}
                stream.write(json_text(record) + "\n")
            count += len(batch)
    return count
