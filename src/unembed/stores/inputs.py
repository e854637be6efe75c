"""Where bytes come from: a file that can be opened repeatedly, or a stream that passes once; compressed or not.

A stream (standard input, a pipe) is opened twice too: first to look at its beginning, then to read it. What the first
look took is kept and given again, so no more than that beginning is ever held.
Compressed input, gzip and zstd, is known by its first bytes and unpacked as it is read.
"""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from unembed.errors import InputError
from unembed.stores.reading import RATIO, READ_BYTES, RESTORE, first_line

STDIN = "-"
AS_FILE = "Save or unpack it to a file first."
MAX_LINE = 1 << 25  # characters; a line without an end must not fill the memory
_HEAD = 16  # bytes that identify the format


class Input:
    """The bytes of a store.

    Args:
        path: a file, a named pipe, or "-" for standard input.

    Attributes:
        name: what messages call it.
        path: the file; None for standard input.
        once: whether it passes only once.
    """

    def __init__(self, path: str | Path) -> None:
        standard = str(path) == STDIN
        self.path = None if standard else Path(path)
        self.name = "standard input" if standard else str(path)
        self.once = self.path is None or not self.path.is_file()
        self._source: BinaryIO | None = None
        self._begin: bytearray | None = bytearray()
        self._opened = self._begun = 0
        self._passed = False

    @property
    def suffix(self) -> str:
        """The ending of the path without that of its compression, in lower case; "" for standard input."""
        if self.path is None:
            return ""
        inner = self.path.with_suffix("") if self.path.suffix.lower() in ENDINGS else self.path
        return inner.suffix.lower()

    @property
    def plain(self) -> bool:
        """Whether it is a file whose bytes can be read at any place."""
        return self.seekable and codec(self._head()) is None

    @property
    def seekable(self) -> bool:
        """Whether it is a file that is not compressed by its name."""
        return not self.once and self.path is not None and self.path.suffix.lower() not in ENDINGS

    @property
    def manner(self) -> str:
        """What prevents reading it at any place: "a pipe" or "compressed"."""
        return "a pipe" if self.once else "compressed"

    def _head(self) -> bytes:
        """Return the first bytes of a file."""
        assert self.path is not None
        with open(self.path, "rb") as stream:
            return stream.read(_HEAD)

    def open(self, last: bool | None = None) -> io.BufferedReader:
        """Open the bytes at their beginning; close what is returned.

        Args:
            last: whether this is the last pass over a stream; None: the second is.

        Raises:
            InputError: a stream that has been read already.
            OSError: the file cannot be opened.
        """
        if not self.once:
            assert self.path is not None
            return self._unpacked(open(self.path, "rb"))
        if self._passed:
            raise InputError(f"{self.name} can be read only once.", "Save it to a file to read it again.")
        self._opened += 1
        self._passed = self._opened > 1 if last is None else last
        return self._unpacked(io.BufferedReader(_Pass(self, not self._passed), 1 << 16))

    def _unpacked(self, stream: io.BufferedReader) -> io.BufferedReader:
        """Return the stream, or one of what its bytes hold where they are compressed."""
        packed = codec(stream.peek(_HEAD)[:_HEAD])
        return stream if packed is None else io.BufferedReader(Unpacked(stream, packed, self.name), 1 << 16)

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes of a stream; at its beginning `_HEAD` bytes at least, however slowly they come."""
        if self._source is None:
            if self.path is not None:
                self._source = open(self.path, "rb")
            elif sys.stdin is None:
                return b""
            else:
                self._source = sys.stdin.buffer
        read: Any = getattr(self._source, "read1", self._source.read)
        data = bytes(read(size))
        while data and self._begun + len(data) < _HEAD and (more := read(size - len(data))):
            data += more
        self._begun += len(data)
        return data

    def close(self) -> None:
        """Close a named pipe; standard input is left open."""
        if self._source is not None and self.path is not None:
            self._source.close()
            self._source = None


class _Pass(io.RawIOBase):
    """A pass over a stream: those before the last keep what they read, and each begins with that."""

    def __init__(self, owner: Input, keeps: bool) -> None:
        super().__init__()
        self._owner, self._keeps, self._at = owner, keeps, 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self._keeps and not self.closed:
            self._owner.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        owner = self._owner
        if self._keeps and owner._begin is not None and self._at < len(owner._begin):
            data = bytes(owner._begin[self._at : self._at + len(buffer)])
            self._at += len(data)
            buffer[: len(data)] = data
            return len(data)
        if not self._keeps and owner._begin is not None:
            data = bytes(owner._begin[: len(buffer)])
            del owner._begin[: len(data)]
            if not owner._begin:
                owner._begin = None
            if data:
                buffer[: len(data)] = data
                return len(data)
        data = owner.read(len(buffer))
        if self._keeps and owner._begin is not None:
            owner._begin += data
            self._at += len(data)
        buffer[: len(data)] = data
        return len(data)


def open_text(source: Input, newline: str | None = None) -> io.TextIOWrapper:
    """Open UTF-8 text, or UTF-16 where it begins with its mark.

    Bytes that are not UTF-8 come as lone surrogates (PEP 383): a column that is not read may hold them.

    Args:
        source: the bytes.
        newline: as for `open`.
    """
    stored = source.open()
    encoding = "utf-16" if stored.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return io.TextIOWrapper(stored, encoding=encoding, errors="surrogateescape", newline=newline)


def text_lines(source: Input, newline: str | None = None) -> Iterator[str]:
    """Yield the lines of a text (see `open_text`), their ends included.

    Args:
        source: the bytes.
        newline: as for `open`.

    Raises:
        InputError: a line of more than `MAX_LINE` characters.
        UnicodeDecodeError, OSError: UTF-16 that is damaged, or not readable.
    """
    with open_text(source, newline) as stream:
        number = 0
        while line := stream.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
                raise InputError(
                    f"Line {number} of {source.name} is longer than {MAX_LINE} characters.",
                    "Write one vector per line.",
                )
            yield line


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
