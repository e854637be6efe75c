"""Vectors from files, chosen by their ending: .npy .parquet .jsonl .csv .arrow and others; "-" is standard input.

    for batch in read_vectors("vectors.parquet"):
        batch.ids, batch.vectors, batch.metadata

Every reader streams: memory depends on the batch, not on the file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unembed.errors import InputError
from unembed.stores.inputs import Input
from unembed.stores.protocol import Store, VectorBatch
from unembed.stores.quantised import Quantisation
from unembed.stores.reading import NO_ROWS, BadRow, Reading

STREAMS = ("jsonl", "csv", "npy", "arrow")  # formats that need no look at their end
_READERS = {
    ".npy": "unembed.stores.arrays:open_npy",
    ".npz": "unembed.stores.archives:open_npz",
    ".safetensors": "unembed.stores.tensors:open_safetensors",
    ".parquet": "unembed.stores.parquet:open_parquet",
    ".pq": "unembed.stores.parquet:open_parquet",
    ".arrow": "unembed.stores.arrow:open_arrow",
    ".feather": "unembed.stores.arrow:open_arrow",
    ".ipc": "unembed.stores.arrow:open_arrow",
    ".json": "unembed.stores.jsonl:open_jsonl",
    ".jsonl": "unembed.stores.jsonl:open_jsonl",
    ".ndjson": "unembed.stores.jsonl:open_jsonl",
    ".csv": "unembed.stores.tables:open_csv",
    ".tsv": "unembed.stores.tables:open_csv",
    ".fvecs": "unembed.stores.vecs:open_vecs",
    ".bvecs": "unembed.stores.vecs:open_vecs",
    ".ivecs": "unembed.stores.vecs:open_vecs",
    ".h5": "unembed.stores.hdf5:open_hdf5",
    ".hdf5": "unembed.stores.hdf5:open_hdf5",
}


def open_file(
    path: str | Path,
    column: str | None = None,
    id_column: str | None = None,
    *,
    reading: Reading | None = None,
    kind: str | None = None,
) -> Store:
    """Open a file of vectors as a store.

    Args:
        path: the file, or "-" for standard input, which can be read once.
        column: the column or array that holds the vectors; None guesses the only one.
        id_column: the column or array that holds the ids; None guesses by name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows; None for plain numbers and an error.
        kind: one of `STREAMS`; None takes the ending of the path, and "jsonl" for standard input.

    Raises:
        InputError: the file is absent, empty, of an unknown kind, damaged, or the columns are not clear.
    """
    source = Input(path)
    if source.path is not None:
        if not source.path.exists():
            raise InputError(f"{path} does not exist.", "Check the path.")
        if source.path.is_dir():
            raise InputError(f"{path} is a folder, not a file of vectors.", "Name a file in it.")
        if not source.once and not source.path.stat().st_size:
            raise InputError(f"{path} is empty and has no rows.", NO_ROWS)
    if kind is not None and kind not in STREAMS:
        raise InputError(f"There is no format {kind!r} for a stream.", f"Use one of {' '.join(STREAMS)}.")
    ending = f".{kind}" if kind is not None else source.suffix if source.path is not None else ".jsonl"
    target = _READERS.get(ending)
    if target is None:
        raise InputError(
            f"{path} ends in {ending or 'nothing'}, which is not a known kind of vector file.",
            f"Use one of {' '.join(sorted(_READERS))}.",
        )
    module, function = target.split(":")
    store: Store = getattr(importlib.import_module(module), function)(source, column, id_column, reading or Reading())
    return store


def read_vectors(
    path: str | Path,
    column: str | None = None,
    id_column: str | None = None,
    batch: int = 8192,
    *,
    scale: Any = None,
    offset: Any = None,
    packed: bool = False,
    on_bad: Callable[[BadRow], None] | None = None,
    kind: str | None = None,
    header: bool | None = None,
) -> Iterator[VectorBatch]:
    """Open a file of vectors and yield its rows in batches.

    Args:
        path: the file, or "-" for standard input.
        column: the column or array that holds the vectors; None guesses the only one.
        id_column: the column or array that holds the ids; None guesses by name, else rows are numbered.
        batch: rows per batch, at most.
        scale: of quantised vectors: a number, one per dimension, or sentence-transformers' ranges of shape (2, d).
        offset: a number or one per dimension: vector = scale * stored + offset.
        packed: whether each stored byte holds eight dimensions (`numpy.packbits`), which become -1 and +1.
        on_bad: called with each row that holds no usable vector, which is then left out; None: an error at the first.
        kind: the format of standard input or of a pipe, one of `STREAMS`; None takes the ending, or "jsonl".
        header: whether the first line of a table of text names its columns; None: judge by the first rows.

    Returns:
        An iterator over batches: ids, float32 vectors (n, d) and metadata, in the order of the file.

    Raises:
        InputError: as `open_file`, a batch below 1, or a bad row.
    """
    if batch < 1:
        raise InputError(f"The batch size is {batch}.", "Use at least 1.")
    reading = Reading(Quantisation(scale, offset, packed), on_bad, header=header)
    return open_file(path, column, id_column, reading=reading, kind=kind).batches(batch)
