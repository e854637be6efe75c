"""Opening vectors: files chosen by their ending, "-" for standard input, `scheme:rest` for stores of other packages.

    for batch in read_vectors("vectors.parquet"):
        batch.ids, batch.vectors, batch.metadata

Every reader streams: memory depends on the batch, not on the file. Other packages add a store with an entry point of
the group "unembed.stores", or `unembed.register("store", SCHEME, open)`: a function
`open(address, column, id_column) -> Store`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unembed.errors import InputError
from unembed.plugins import REPAIR, guarded, plugin, plugin_names, told
from unembed.stores.inputs import Input
from unembed.stores.protocol import Store, VectorBatch
from unembed.stores.quantised import Quantisation
from unembed.stores.reading import NO_ROWS, BadRow, ReadOptions

STREAMS = ("jsonl", "csv", "npy", "arrow")  # formats that need no look at their end
_READERS = {
    ".npy": "unembed.stores.arrays.npy:open_npy",
    ".npz": "unembed.stores.arrays.npz:open_npz",
    ".safetensors": "unembed.stores.arrays.tensors:open_safetensors",
    ".parquet": "unembed.stores.arrow.parquet:open_parquet",
    ".pq": "unembed.stores.arrow.parquet:open_parquet",
    ".arrow": "unembed.stores.arrow.ipc:open_arrow",
    ".feather": "unembed.stores.arrow.ipc:open_arrow",
    ".ipc": "unembed.stores.arrow.ipc:open_arrow",
    ".json": "unembed.stores.text.jsonl:open_jsonl",
    ".jsonl": "unembed.stores.text.jsonl:open_jsonl",
    ".ndjson": "unembed.stores.text.jsonl:open_jsonl",
    ".csv": "unembed.stores.text.tables:open_csv",
    ".tsv": "unembed.stores.text.tables:open_csv",
    ".fvecs": "unembed.stores.arrays.vecs:open_vecs",
    ".bvecs": "unembed.stores.arrays.vecs:open_vecs",
    ".ivecs": "unembed.stores.arrays.vecs:open_vecs",
    ".h5": "unembed.stores.arrays.hdf5:open_hdf5",
    ".hdf5": "unembed.stores.arrays.hdf5:open_hdf5",
}
"""Ending -> a function (source, column, id_column, reading) that returns the store; names as in `open_store`."""
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://")


def open_store(
    address: str | Path,
    column: str | None = None,
    id_column: str | None = None,
    *,
    reading: ReadOptions | None = None,
    kind: str | None = None,
) -> Store:
    """Open a store.

    Args:
        address: a path, "-" for standard input, which can be read once, or `scheme://...`.
        column: the column or array that holds the vectors; None guesses the only one.
        id_column: the column or array that holds the ids; None guesses by name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows; None for plain numbers and an error. A store of
            another package checks its own rows.
        kind: one of `STREAMS`; None takes the ending of the path, and "jsonl" for standard input.

    Raises:
        InputError: the file is absent, empty, of an unknown kind, damaged, or the columns are not clear; no store has
            that scheme, or what the store itself finds wrong.
    """
    match = _SCHEME.match(str(address))
    if match is None:
        return _open_file(address, column, id_column, reading or ReadOptions(), kind)
    scheme = match.group(1)
    if scheme == "file":
        return _open_file(str(address)[len("file://") :], column, id_column, reading or ReadOptions(), kind)
    if kind is not None or (reading is not None and reading.quantisation.given):
        raise InputError(
            f"A format, a scale, an offset or packed bits are given for {scheme}://, which is not a file.",
            "Leave out --format, --scale, --offset and --packed.",
        )
    opener = plugin("store", scheme)
    if opener is None:
        known = ", ".join(["file", *plugin_names("store")])
        raise InputError(
            f"No store is registered for {scheme}://.", f"Use a file, or install a store for it (known: {known})."
        )
    with guarded(_refuse(scheme, "cannot open it")):
        return PluginStore(opener(str(address), column, id_column), scheme)


def _open_file(
    path: str | Path, column: str | None, id_column: str | None, reading: ReadOptions, kind: str | None
) -> Store:
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
    store: Store = getattr(importlib.import_module(module), function)(source, column, id_column, reading)
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
    """Open a store and yield its rows in batches.

    Args:
        path: the file, "-" for standard input, or `scheme://...` of another package's store.
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
        InputError: as `open_store`, a batch below 1, or a bad row.
    """
    if batch < 1:
        raise InputError(f"The batch size is {batch}.", "Use at least 1.")
    reading = ReadOptions(Quantisation(scale, offset, packed), on_bad, header=header)
    return open_store(path, column, id_column, reading=reading, kind=kind).batches(batch)


def _refuse(scheme: str, what: str) -> Callable[[BaseException], InputError]:
    return lambda error: InputError(f"The plug-in for {scheme}:// {what} ({told(error)}).", REPAIR)


class PluginStore:
    """A store of another package, whose failures are reported in two sentences.

    Args:
        inner: what the plugin's function returned.
        scheme: the name that it is registered under, for messages.
    """

    def __init__(self, inner: Any, scheme: str) -> None:
        self._inner, self._scheme = inner, scheme
        self.name: str = str(inner.name)
        self.dimension: int = int(inner.dimension)
        self.count: int | None = inner.count

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order; see `Store`."""
        with guarded(_refuse(self._scheme, "fails while it is read")):
            yield from self._inner.batches(batch)
