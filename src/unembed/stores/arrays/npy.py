"""Vectors in arrays: the store over slices of arrays, and .npy (read by slices; mapped if its columns lie together).

Nothing is unpickled: object arrays are refused. `.npz` and `.safetensors` (npz.py, tensors.py) build on this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrays.choosing import TOKENS, Chosen, plain_values, squeezed
from unembed.stores.inputs import Input
from unembed.stores.protocol import VectorBatch, check_dtype, make_batch
from unembed.stores.reading import NO_ROWS, READ_BYTES, RESTORE, ReadOptions, check_width, translated

Read = Callable[[int, int], dict[str, Any]]

MAX_HEADER = 10_000  # bytes of a .npy header, as numpy has it


@dataclass(frozen=True)
class ArrayStore:
    """A store over arrays that are read slice by slice.

    Attributes:
        name: the path, for messages.
        chosen: which arrays are read, and the shape of the vectors.
        reader: opened once per pass; gives a function (start, stop) -> rows of every array by name, asked in order.
        row_bytes: bytes of one row over all arrays.
        reading: what the numbers mean and what happens to bad rows.
    """

    name: str
    chosen: Chosen
    reader: Callable[[], AbstractContextManager[Read]]
    row_bytes: int = 0
    reading: ReadOptions = field(default_factory=ReadOptions)

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.reading.quantisation.dimension(self.chosen.width)

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.chosen.rows

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        vectors, count, width, ids, scale, _ = self.chosen
        size = max(1, min(batch, READ_BYTES // max(4 * self.dimension, self.row_bytes)))
        with self.reader() as read:
            for start in range(0, count, size):
                with translated(self.name, "arrays"):
                    rows = read(start, min(start + size, count))
                    numbers = rows.pop(vectors).reshape(-1, width)
                    columns = {name: plain_values(values) for name, values in rows.items()}
                names = columns.pop(ids) if ids is not None else None
                part = make_batch(numbers, names, columns, self.name, start, width, reading=self.reading, scales=scale)
                if len(part):
                    yield part


@dataclass(frozen=True)
class Header:
    """The header of a .npy array.

    Attributes:
        shape: of the array.
        dtype: numpy's type of its values.
        fortran: whether columns lie together instead of rows.
        begin: bytes of the header itself.
    """

    shape: tuple[int, ...]
    dtype: Any
    fortran: bool
    begin: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        width = int(self.dtype.itemsize)
        for side in self.shape[1:]:
            width *= side
        return width

    @property
    def total_bytes(self) -> int:
        """Bytes of header and values."""
        return self.begin + self.row_bytes * (self.shape[0] if self.shape else 1)


def read_header(stream: Any) -> Header:
    """Read the header of a .npy stream.

    Raises:
        ValueError: not a header, or one of more than `MAX_HEADER` bytes (numpy's own exceptions too).
    """
    import struct

    from numpy.lib import format as npy

    version = npy.read_magic(stream)
    form = "<H" if version == (1, 0) else "<I"
    raw = stream.read(struct.calcsize(form))
    if len(raw) != struct.calcsize(form) or version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError("the header is cut or of an unknown version")
    size = struct.unpack(form, raw)[0]
    if size > MAX_HEADER:
        raise ValueError(f"the header has {size} bytes")
    text = stream.read(size)
    if len(text) != size:
        raise ValueError("the header is cut")
    return _parse_header(text.decode("latin1" if version < (3, 0) else "utf-8"), 6 + 2 + len(raw) + size)


def _parse_header(text: str, begin: int) -> Header:
    """Make a header of its text, a Python literal with the keys descr, fortran_order and shape."""
    import ast

    import numpy as np
    from numpy.lib import format as npy

    values = ast.literal_eval(text.strip())
    if not isinstance(values, dict) or set(values) != {"descr", "fortran_order", "shape"}:
        raise ValueError("the header has other keys")
    shape, fortran = values["shape"], values["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"the header announces the shape {str(shape)[:60]}")
    if not isinstance(fortran, bool):
        raise ValueError("the header has a wrong order")
    return Header(shape, np.dtype(npy.descr_to_dtype(values["descr"])), fortran, begin)


def read_rows(stream: Any, header: Header, rows: int, source: str) -> Any:
    """Read the next rows of a .npy stream whose header has been read.

    Args:
        stream: the bytes.
        header: of the array.
        rows: how many.
        source: what messages call the store.

    Returns:
        An array of shape (rows, ...).

    Raises:
        InputError: fewer rows are there.
    """
    import numpy as np

    width = header.row_bytes
    with translated(source, "a .npy array"):
        data = stream.read(rows * width)
    if len(data) != rows * width:
        raise InputError(f"{source} is truncated: {rows} more rows were announced, fewer are there.", RESTORE)
    return np.frombuffer(data, dtype=header.dtype).reshape(rows, *header.shape[1:])


def rows_of(arrays: dict[str, tuple[Any, Header]], source: str) -> Read:
    """Return what reads slices of .npy streams whose headers have been read, one after the other.

    Raises:
        InputError: an array that is stored column by column and is too large to be held.
    """
    whole: dict[str, Any] = {}
    for name, (stream, header) in arrays.items():
        if header.fortran and len(header.shape) > 1 and header.shape[0] > 1:
            if header.row_bytes * header.shape[0] > READ_BYTES:
                raise InputError(
                    f"{source} holds an array column by column, of more than {READ_BYTES} bytes.",
                    "Save it as numpy.ascontiguousarray(array).",
                )
            data = read_rows(stream, header, header.shape[0], source)
            whole[name] = data.reshape(-1).reshape(header.shape, order="F")

    def read(start: int, stop: int) -> dict[str, Any]:
        return {
            name: whole[name][start:stop] if name in whole else read_rows(stream, header, stop - start, source)
            for name, (stream, header) in arrays.items()
        }

    return read


def open_npy(source: Input, column: str | None, id_column: str | None, reading: ReadOptions) -> ArrayStore:
    """Open a .npy array of shape (n, d), or (d,) for one vector, without reading it into memory.

    Raises:
        InputError: a column is named, not a .npy file, truncated, pickled, of another shape or not numeric.
    """
    name = source.name
    if column is not None or id_column is not None:
        raise InputError(f"{name} holds one array and no named columns.", "Leave out --column and --id-column.")
    size = source.path.stat().st_size if source.path is not None and source.plain else None
    with translated(name, "a .npy array"), source.open() as stream:
        if stream.peek(4)[:4] == b"PK\x03\x04":
            raise InputError(f"{name} is an archive, not a single array.", "Rename it to .npz.")
        header = read_header(stream)
    check_dtype(header.dtype, name)
    shape = squeezed(header.shape if len(header.shape) != 1 else (1, *header.shape))
    if shape is None:
        do = TOKENS if len(header.shape) > 2 else "Store an array of shape (rows, dimension)."
        raise InputError(f"{name} holds an array of shape {header.shape}.", do)
    check_width(shape[1], name)
    if shape[0] == 0:
        raise InputError(f"{name} has no rows.", NO_ROWS)
    if size is not None and size < header.total_bytes:
        raise InputError(
            f"{name} is truncated: its header announces {shape[0]} rows, {header.total_bytes} bytes in all, "
            f"and the file has {size}.",
            RESTORE,
        )
    reading.quantisation.check(shape[1], header.dtype.name, name)
    flat = Header(shape, header.dtype, header.fortran, header.begin)

    def mapped() -> AbstractContextManager[Read]:
        import numpy as np

        with translated(name, "a .npy array"):
            array: Any = np.memmap(
                str(source.path), header.dtype, "r", header.begin, shape, "F" if header.fortran else "C"
            )
        return contextlib.nullcontext(lambda start, stop: {"vectors": array[start:stop]})

    @contextlib.contextmanager
    def streamed() -> Iterator[Read]:
        with source.open() as stream:
            with translated(name, "a .npy array"):
                read_header(stream)
            yield rows_of({"vectors": (stream, flat)}, name)

    chosen = Chosen("vectors", *shape, None, None, ["vectors"])
    # mapped pages would count as memory in use, so a file is mapped only where slices of rows are not contiguous
    reader = mapped if header.fortran and source.plain else streamed
    return ArrayStore(name, chosen, reader, flat.row_bytes, reading)
