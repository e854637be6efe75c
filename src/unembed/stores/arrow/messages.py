"""How much a message of Arrow IPC unfolds to, from its header, before the library unpacks it.

A compressed buffer begins with its length unpacked, which a few bytes can make gigabytes. Headers are FlatBuffers
(Message.fbs and File.fbs in apache/arrow). Contents: `check_file`, `check_next` and `CheckedStream`.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from unembed.errors import InputError
from unembed.stores.reading import RATIO, READ_BYTES

_DICTIONARY, _RECORDS = 2, 3
_CONTINUED = b"\xff\xff\xff\xff"
_METADATA = 1 << 26  # bytes of a header
_MAGIC = b"ARROW1"


@dataclass(frozen=True)
class _Message:
    """The header of a message: its kind, bytes of its body, and its buffers (offset, length) if they are compressed."""

    kind: int
    body: int
    buffers: tuple[tuple[int, int], ...]


def check_file(mapped: Any, size: int, source: str) -> Callable[[int], None]:
    """Look through the index of an IPC file and check its dictionaries.

    Args:
        mapped: the file, which can be read at any place.
        size: bytes of the file.
        source: what messages call the store.

    Returns:
        A function that checks the record batch of a number, before it is read.

    Raises:
        InputError: a message unfolds a hundred-fold.
        ValueError, struct.error: the index is damaged.
    """
    length = struct.unpack("<i", mapped.read_at(4, size - 10))[0]
    if not 0 < length <= min(size, _METADATA):
        raise ValueError(f"its index has {length} bytes")
    footer = mapped.read_at(length, size - 10 - length)
    root = _root(footer)
    dictionaries, batches = (list(_blocks(footer, root, number)) for number in (2, 3))

    def check(block: tuple[int, int]) -> None:
        offset, head = block
        if head > _METADATA:
            raise ValueError(f"a header has {head} bytes")
        data = mapped.read_at(head, offset)
        begin = 8 if data[:4] == _CONTINUED else 4
        _check(_message(data[begin:]), lambda at: mapped.read_at(8, offset + head + at), source)

    for block in dictionaries:
        check(block)
    return lambda number: check(batches[number])


def check_next(stream: BinaryIO, source: str) -> None:
    """Check the messages of a stream that can be read at any place, up to the end of the next record batch."""
    while (found := _next(stream)) is not None:
        _, message = found
        begin = stream.tell()

        def at(place: int, begin: int = begin) -> bytes:
            stream.seek(begin + place)
            return stream.read(8)

        _check(message, at, source)
        stream.seek(begin + message.body)
        if message.kind == _RECORDS:
            return


class CheckedStream(io.RawIOBase):
    """The bytes of an IPC stream that passes once; each message is checked before any of it is given on."""

    def __init__(self, stream: BinaryIO, source: str) -> None:
        super().__init__()
        self._stream, self._source = stream, source
        self._ready = memoryview(b"")
        self._body = 0

    def readable(self) -> bool:  # noqa: D102
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        if not self._ready and self._body:
            data = self._stream.read(min(self._body, len(buffer)))
            self._body = self._body - len(data) if data else 0
            self._ready = memoryview(data)
        elif not self._ready:
            self._ready = memoryview(self._take())
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _take(self) -> bytes:
        """Read the header of the next message, with its body where that is compressed; b"" at the end."""
        found = _next(self._stream)
        if found is None:
            return b""
        raw, message = found
        if not message.buffers:
            self._body = message.body
            return raw
        body = self._stream.read(message.body)
        _check(message, lambda at: body[at : at + 8], self._source)
        return raw + body


def _next(stream: BinaryIO) -> tuple[bytes, _Message] | None:
    """Read the header of the next message; None at the end of the stream."""
    raw = stream.read(4)
    if raw == _CONTINUED:
        raw += stream.read(4)
    length = struct.unpack("<i", raw[-4:])[0] if len(raw) in (4, 8) else 0
    if length == 0:
        return None
    if not 0 < length <= _METADATA:
        raise ValueError(f"a header has {length} bytes")
    data = stream.read(length)
    return raw + data, _message(data)


def _check(message: _Message, at: Callable[[int], bytes], source: str) -> None:
    """Refuse a message whose buffers unfold a hundred-fold; `at` reads eight bytes of its body."""
    unfolded = 0
    for offset, length in message.buffers:
        if length > 0:
            unfolded += max(0, struct.unpack("<q", at(offset))[0])
    if unfolded > READ_BYTES and unfolded > RATIO * message.body:
        raise InputError(
            f"{source} unfolds a record batch of {message.body} bytes to {unfolded}, as a decompression bomb does.",
            f"Write real vectors; a batch that packs {RATIO}-fold holds none.",
        )


def _message(data: bytes) -> _Message:
    """Read the header of a message."""
    root = _root(data)
    kind = data[at] if (at := _field(data, root, 1)) else 0
    body = struct.unpack_from("<q", data, at)[0] if (at := _field(data, root, 3)) else 0
    if body < 0:
        raise ValueError("a message has a body below 0 bytes")
    if kind not in (_DICTIONARY, _RECORDS):
        return _Message(kind, body, ())
    batch = _table(data, root, 2)
    if kind == _DICTIONARY:
        batch = _table(data, batch, 1)
    if not _field(data, batch, 3):
        return _Message(kind, body, ())
    return _Message(kind, body, tuple(struct.unpack_from("<qq", data, at) for at in _vector(data, batch, 2, 16)))


def _root(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 0)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Return where a field of a table is, 0 where it is absent."""
    names = table - struct.unpack_from("<i", data, table)[0]
    if names < 0:
        raise ValueError("a header is damaged")
    if 4 + 2 * number >= struct.unpack_from("<H", data, names)[0]:
        return 0
    offset = int(struct.unpack_from("<H", data, names + 4 + 2 * number)[0])
    return table + offset if offset else 0


def _table(data: bytes, table: int, number: int) -> int:
    """Return where the table of a field is."""
    at = _field(data, table, number)
    if not at:
        raise ValueError("a header has no content")
    return at + int(struct.unpack_from("<I", data, at)[0])


def _vector(data: bytes, table: int, number: int, size: int) -> Iterator[int]:
    """Yield where the items of a field are, a vector of structs of `size` bytes."""
    at = _field(data, table, number)
    if at:
        begin = at + int(struct.unpack_from("<I", data, at)[0])
        count = int(struct.unpack_from("<I", data, begin)[0])
        if count * size > len(data):
            raise ValueError("a header is damaged")
        yield from range(begin + 4, begin + 4 + count * size, size)


def _blocks(footer: bytes, root: int, number: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, bytes of the header) of the messages that a field of the index lists."""
    for at in _vector(footer, root, number, 24):
        offset, head = struct.unpack_from("<qi", footer, at)
        if offset < 0 or head < 0:
            raise ValueError("the index is damaged")
        yield offset, head
