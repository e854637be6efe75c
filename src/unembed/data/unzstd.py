"""Files as they are or as .zst: any number of frames, and an end that is missing is noticed. Contents: `open_file`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from unembed.errors import DataError


class _Unzstd(io.RawIOBase):
    """The contents of a .zst stream of any number of frames; unlike zstandard's own reader it notices a missing end."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        import zstandard

        super().__init__()
        self._frame = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._stream, self._path = stream, path
        self._open: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the next block goes; 0 at the end."""
        while not self._ready:
            packed = self._stream.read(1 << 12)  # small: a block may grow a thousandfold
            if not packed:
                if self._open is not None:
                    raise self._damaged("its end is missing")
                return 0
            self._ready = memoryview(self._unpack(packed))
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n

    def _unpack(self, packed: bytes) -> bytes:
        """Feed packed bytes to the open frame, and what is left to the next one."""
        parts = []
        while packed:
            self._open = self._open or self._frame()
            try:
                parts.append(self._open.decompress(packed))
            except self._error as error:
                raise self._damaged(str(error)) from error
            packed = self._open.unused_data if self._open.eof else b""
            if self._open.eof:
                self._open = None
        return b"".join(parts)

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"{self._path} is not a whole .zst file ({reason}).", "Compress or copy it again.")


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream of the file's contents, decompressed."""
    with open(path, "rb") as stream:
        if path.name.lower().endswith(".zst"):
            yield io.BufferedReader(_Unzstd(stream, path), 1 << 18)
        else:
            yield stream
