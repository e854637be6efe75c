"""Vectors in array files: .npy (memory-mapped), .npz (streamed out of the archive) and .safetensors (sliced).

Nothing is unpickled: object arrays are refused. Other arrays of an archive with the same number of rows and one
dimension become ids or metadata.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unembed.errors import InputError
from unembed.stores.protocol import VectorBatch, check_dtype, choose_ids, choose_vectors, make_batch

Read = Callable[[int, int], dict[str, Any]]

_BYTES = "Restore the file from where it was made."


@dataclass(frozen=True)
class ArrayStore:
    """A store over arrays that are read slice by slice.

    Attributes:
        name: the path, for messages.
        dimension: length of every vector.
        count: number of rows.
        reader: opened once a pass; gives a function (start, stop) -> rows of every array by name, asked in order.
        vector_name: the array that holds the vectors.
        id_name: the array that holds the ids, or None.
    """

    name: str
    dimension: int
    count: int
    reader: Callable[[], AbstractContextManager[Read]]
    vector_name: str
    id_name: str | None = None

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        with self.reader() as read:
            for start in range(0, self.count, batch):
                rows = read(start, min(start + batch, self.count))
                vectors = rows.pop(self.vector_name)
                columns = {name: _plain(values) for name, values in rows.items()}
                ids = columns.pop(self.id_name) if self.id_name is not None else None
                yield make_batch(vectors, ids, columns, self.name, start, self.dimension)


def _plain(values: Any) -> list[Any]:
    """Turn a 1-D array into plain Python values."""
    return list(values.tolist())


def open_npy(path: Path, column: str | None = None, id_column: str | None = None) -> ArrayStore:
    """Open a .npy file of shape (n, d), or (d,) for one vector, without reading it into memory.

    Raises:
        InputError: not a .npy file, truncated, pickled, of another shape or not numeric.
    """
    import numpy as np

    if column is not None or id_column is not None:
        raise InputError(f"{path} holds one array and no named columns.", "Leave out --column and --id-column.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read as a .npy array ({_first_line(error)}).", _BYTES) from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} is an archive, not a single array.", "Rename it to .npz.")
    check_dtype(array.dtype, str(path))
    if array.ndim == 1:
        array = array[None, :]
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{path} holds an array of shape {array.shape}.", "Store an array of shape (rows, dimension).")

    def reader() -> AbstractContextManager[Read]:
        return contextlib.nullcontext(lambda start, stop: {"vectors": array[start:stop]})

    return ArrayStore(str(path), int(array.shape[1]), int(array.shape[0]), reader, "vectors")


def open_npz(path: Path, column: str | None = None, id_column: str | None = None) -> ArrayStore:
    """Open a .npz archive; its members are streamed, also when they are compressed.

    Raises:
        InputError: not an archive, no array of shape (n, d), pickled members, or an ambiguous choice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            shapes = {}
            for member in members:
                with archive.open(member) as stream:
                    shapes[member.removesuffix(".npy")] = _read_header(stream)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read as an .npz archive ({_first_line(error)}).", _BYTES) from error
    tables = {
        name: f"{dtype}, {shape[0]} x {shape[1]}"
        for name, (shape, dtype, fortran) in shapes.items()
        if len(shape) == 2 and shape[1] > 0 and dtype.kind in "fiu" and not fortran
    }
    vector_name = choose_vectors(tables, column, str(path))
    count, dimension = shapes[vector_name][0]
    sides = [
        name for name, (shape, dtype, _) in shapes.items() if shape == (count,) and dtype.kind in "fiubSU" and name
    ]
    id_name = choose_ids(sides, id_column, str(path))

    @contextlib.contextmanager
    def reader() -> Iterator[Read]:
        with contextlib.ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(path))
            streams = {name: stack.enter_context(archive.open(f"{name}.npy")) for name in (vector_name, *sides)}
            for stream in streams.values():
                _read_header(stream)
            yield lambda start, stop: {
                name: _read_rows(stream, shapes[name], stop - start, str(path)) for name, stream in streams.items()
            }

    return ArrayStore(str(path), dimension, count, reader, vector_name, id_name)


def _read_header(stream: Any) -> tuple[tuple[int, ...], Any, bool]:
    """Read the header of a .npy stream: shape, dtype, whether the order is Fortran's."""
    from numpy.lib import format as npy

    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return shape, dtype, fortran


def _read_rows(stream: Any, header: tuple[tuple[int, ...], Any, bool], rows: int, source: str) -> Any:
    """Read the next rows of a .npy stream whose header has been read."""
    import numpy as np

    shape, dtype, _ = header
    width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    try:
        data = stream.read(rows * width)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(f"{source} is damaged ({_first_line(error)}).", _BYTES) from error
    if len(data) != rows * width:
        raise InputError(f"{source} is truncated: {rows} rows were announced, fewer are there.", _BYTES)
    return np.frombuffer(data, dtype=dtype).reshape(rows, *shape[1:])


def open_safetensors(path: Path, column: str | None = None, id_column: str | None = None) -> ArrayStore:
    """Open a .safetensors file; its only tensor of shape (n, d), or the one named, holds the vectors.

    Raises:
        InputError: not a safetensors file, no such tensor, or several.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            kinds = {name: (file.get_slice(name).get_shape(), file.get_slice(name).get_dtype()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({_first_line(error)}).", _BYTES) from error
    tables = {
        name: f"{dtype}, {shape[0]} x {shape[1]}"
        for name, (shape, dtype) in kinds.items()
        if len(shape) == 2 and shape[1] > 0 and dtype in ("F64", "F32", "F16", "BF16", "I8", "U8", "I16", "I32", "I64")
    }
    vector_name = choose_vectors(tables, column, str(path))
    count, dimension = kinds[vector_name][0]
    sides = [name for name, (shape, dtype) in kinds.items() if shape == [count] and dtype != "BF16"]
    id_name = choose_ids(sides, id_column, str(path))
    half = kinds[vector_name][1] == "BF16"  # numpy has no bfloat16: torch reads those slices

    @contextlib.contextmanager
    def reader() -> Iterator[Read]:
        with (
            safe_open(path, framework="pt" if half else "numpy") as first,
            safe_open(path, framework="numpy") as second,
        ):
            vectors = first.get_slice(vector_name)
            columns = {name: second.get_slice(name) for name in sides}

            def read(start: int, stop: int) -> dict[str, Any]:
                table = vectors[start:stop]
                rows = {name: part[start:stop] for name, part in columns.items()}
                return {vector_name: table.float().numpy() if half else table, **rows}

            yield read

    return ArrayStore(str(path), dimension, count, reader, vector_name, id_name)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without its final stop."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
