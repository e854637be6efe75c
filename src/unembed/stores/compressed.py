"""Compressed input: gzip and zstd, known by their first bytes, unpacked as it is read."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from unembed.errors import InputError
from unembed.stores.reading import RATIO, READ_BYTES, RESTORE, first_line

ENDINGS = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_MAGIC = {b"\x1f\x8b\x08": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


def codec(head: bytes) -> str | None:
    """Return how bytes that begin so are compressed, or None."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


class _Counted:
    """A stream that counts what is read of it. The library holds it, so it holds nothing that holds the library."""

    closed = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.taken = 0

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        data = self._stream.read(size)
        self.taken += len(data)
        return data

    def close(self) -> None:
        """Do nothing: the stream is closed by its owner."""


class Unpacked(io.RawIOBase):
    """The bytes that compressed bytes hold.

    Args:
        packed: a stream at its beginning; it is closed with this.
        codec: "gzip" or "zstd".
        source: what messages call the store.

    Raises:
        InputError: while it is read: damaged, cut off, or a bomb.
    """

    def __init__(self, packed: BinaryIO, codec: str, source: str) -> None:
        import pyarrow as pa

        super().__init__()
        self._packed, self._codec, self._source = packed, codec, source
        self._given = 0
        self._counted = _Counted(packed)
        self._stream = pa.CompressedInputStream(pa.PythonFile(self._counted, mode="r"), codec)

    def readable(self) -> bool:  # noqa: D102
        return True

    def close(self) -> None:  # noqa: D102
        if not self.closed:
            self._stream.close()
            self._packed.close()
        super().close()

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        try:
            data = self._stream.read(len(buffer))
        except OSError as error:
            what = f"{self._source} is cut or damaged: {self._codec} cannot unpack it ({first_line(error)})."
            raise InputError(what, RESTORE) from error
        self._given += len(data)
        if self._given > READ_BYTES and self._given > RATIO * self._counted.taken:
            raise InputError(
                f"{self._source} unfolds {self._counted.taken} bytes to {self._given}, as a decompression bomb does.",
                f"Give real vectors; a file that packs {RATIO}-fold holds none.",
            )
        buffer[: len(data)] = data
        return len(data)
