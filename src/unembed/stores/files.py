"""Vectors from files, chosen by their ending: .npy .npz .parquet .jsonl .csv .tsv .safetensors.

    for batch in read_vectors("vectors.parquet"):
        batch.ids, batch.vectors, batch.metadata

Every reader streams: memory depends on the batch, not on the file.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

from unembed.errors import InputError
from unembed.stores.protocol import Store, VectorBatch

_READERS = {
    ".npy": "unembed.stores.arrays:open_npy",
    ".npz": "unembed.stores.arrays:open_npz",
    ".safetensors": "unembed.stores.arrays:open_safetensors",
    ".parquet": "unembed.stores.parquet:open_parquet",
    ".pq": "unembed.stores.parquet:open_parquet",
    ".jsonl": "unembed.stores.lines:open_jsonl",
    ".ndjson": "unembed.stores.lines:open_jsonl",
    ".csv": "unembed.stores.lines:open_csv",
    ".tsv": "unembed.stores.lines:open_csv",
}


def open_file(path: str | Path, column: str | None = None, id_column: str | None = None) -> Store:
    """Open a file of vectors as a store.

    Args:
        path: the file.
        column: the column or array that holds the vectors; None guesses the only one.
        id_column: the column or array that holds the ids; None guesses by name, else rows are numbered.

    Raises:
        InputError: the file is absent, of an unknown kind, damaged, or the columns are not clear.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Check the path.")
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file of vectors.", "Name a file in it.")
    target = _READERS.get(path.suffix.lower())
    if target is None:
        raise InputError(
            f"{path} ends in {path.suffix or 'nothing'}, which is no known kind of vector file.",
            f"Use one of {' '.join(sorted(_READERS))}.",
        )
    module, function = target.split(":")
    store: Store = getattr(importlib.import_module(module), function)(path, column, id_column)
    return store


def read_vectors(
    path: str | Path, column: str | None = None, id_column: str | None = None, batch: int = 8192
) -> Iterator[VectorBatch]:
    """Open a file of vectors and yield its rows in batches (see `open_file` for arguments and errors)."""
    if batch < 1:
        raise InputError(f"The batch size is {batch}.", "Use at least 1.")
    return open_file(path, column, id_column).batches(batch)
