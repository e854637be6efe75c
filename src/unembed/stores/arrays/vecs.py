"""Vectors in .fvecs and .bvecs, the formats of nearest-neighbour benchmarks: for each row its length, then its numbers.

The length is an int32, the numbers are float32 (.fvecs) or bytes (.bvecs), little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unembed.errors import InputError
from unembed.stores.inputs import Input
from unembed.stores.protocol import VectorBatch, choose_others, make_batch
from unembed.stores.reading import READ_BYTES, RESTORE, ReadOptions, check_width, translated

_KINDS = {".fvecs": "<f4", ".bvecs": "u1"}


@dataclass(frozen=True)
class VecsStore:
    """A store over one .fvecs or .bvecs file.

    Attributes:
        name: the path, for messages.
        width: numbers stored per row.
        kind: numpy's name of their type.
        source: the bytes.
        count: number of rows; None where the file is compressed or a pipe.
        reading: what the numbers mean and what happens to bad rows.
    """

    name: str
    width: int
    kind: str
    source: Input
    count: int | None
    reading: ReadOptions

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.reading.quantisation.dimension(self.width)

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        import numpy as np

        row_bytes = 4 + self.width * np.dtype(self.kind).itemsize
        size = max(1, min(batch, READ_BYTES // max(row_bytes, 4 * self.dimension)))
        start = 0
        with self.source.open() as stream:
            while True:
                with translated(self.name, "vectors"):
                    data = stream.read(size * row_bytes)
                if not data:
                    return
                rows = len(data) // row_bytes
                table = np.frombuffer(data, np.uint8, rows * row_bytes).reshape(rows, row_bytes)
                widths = np.ascontiguousarray(table[:, :4]).view("<i4")[:, 0]
                wrong = np.flatnonzero(widths != self.width)
                if len(wrong):
                    raise InputError(
                        f"Row {start + wrong[0]} of {self.name} announces {widths[wrong[0]]} numbers; "
                        f"the first has {self.width}.",
                        RESTORE,
                    )
                if rows * row_bytes < len(data):
                    raise InputError(f"{self.name} is cut in row {start + rows}.", RESTORE)
                numbers: Any = np.ascontiguousarray(table[:, 4:]).view(self.kind)
                part = make_batch(numbers, None, {}, self.name, start, self.width, reading=self.reading)
                start += rows
                if len(part):
                    yield part


def open_vecs(source: Input, column: str | None, id_column: str | None, reading: ReadOptions) -> VecsStore:
    """Open a .fvecs or .bvecs file; .ivecs holds no vectors.

    Raises:
        InputError: a column is named, .ivecs, an empty or damaged file, or one whose size is not a multiple of a row.
    """
    import struct

    import numpy as np

    name = source.name
    if source.suffix == ".ivecs":
        raise InputError(
            f"{name} holds whole numbers: the rows of nearest neighbours, not vectors.",
            "Give the .fvecs or .bvecs file beside it.",
        )
    if column is not None or id_column is not None:
        raise InputError(f"{name} has no named columns.", "Leave out --column and --id-column.")
    choose_others([], reading, name)
    with translated(name, "vectors"), source.open() as stream:
        (width,) = struct.unpack("<i", stream.read(4))
    check_width(width, name)
    kind = _KINDS[source.suffix]
    row_bytes = 4 + width * np.dtype(kind).itemsize
    count = None
    if source.plain and source.path is not None:
        count, rest = divmod(source.path.stat().st_size, row_bytes)
        if rest:
            raise InputError(
                f"{name} is cut or damaged: its size is not a multiple of the {row_bytes} bytes of a row.", RESTORE
            )
    reading.quantisation.check(width, np.dtype(kind).name, name)
    return VecsStore(name, width, kind, source, count, reading)
