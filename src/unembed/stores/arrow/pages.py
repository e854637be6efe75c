"""How much a parquet file unfolds to, from the headers of its pages, before any page is unpacked.

A footer may say what it likes, and a dictionary or a run of equal values writes gigabytes in a few bytes. What a reader
will allocate is in the header of each page. Footer and headers are structs in Thrift's compact protocol
(parquet.thrift in apache/parquet-format); they are read here, as pyarrow's own view of a column's metadata ends the
process where that is damaged. Contents: `footer`, `leaves`, `pages` and `rows_that_fit`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from unembed.errors import InputError
from unembed.stores.reading import RATIO, READ_BYTES

_DATA, _DICTIONARY, _DATA_2 = 0, 2, 3
_DELTA = 7  # DELTA_BYTE_ARRAY: a value may repeat all that comes before it
_SIZES = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
_SHARED = frozenset((0, 2, 3, 4, 8))  # PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, RLE_DICTIONARY
_FOOTER = 1 << 28  # bytes
_HEADER = 1 << 24  # bytes of a page's header, as the library has it


class Page(NamedTuple):
    """The header of a page: its kind, bytes unpacked and stored, values (nulls count) and their encoding."""

    kind: int
    size: int
    stored: int
    values: int
    encoding: int


class Chunk(NamedTuple):
    """What the footer says of a column in a row group."""

    encodings: tuple[int, ...]
    num_values: int
    total_compressed_size: int
    data_page_offset: int
    dictionary_page_offset: int


class RowGroup(NamedTuple):
    """What the footer says of a row group."""

    num_rows: int
    columns: list[Chunk]


@dataclass(frozen=True)
class Leaf:
    """One column of plain values in a parquet file, which may lie inside a list or struct.

    Attributes:
        index: its place in each row group.
        name: the column of the table that it belongs to.
        path: its full path.
        size: bytes of a value (of an index into a dictionary, for text).
        text: whether its values are bytes of any length.
        shared: whether it can be read as a dictionary, equal values once.
        repeated: whether a row has several values.
    """

    index: int
    name: str
    path: str
    size: int
    text: bool
    shared: bool
    repeated: bool


def footer(stream: BinaryIO) -> list[RowGroup]:
    """Read the row groups out of the footer of a parquet file.

    Raises:
        ValueError: it is damaged.
    """
    stream.seek(-8, 2)
    length = int.from_bytes(stream.read(4), "little")
    if length > _FOOTER:
        raise ValueError(f"its footer has {length} bytes")
    stream.seek(-8 - length, 2)
    try:
        fields, _ = _struct(stream.read(length), 0, 0)
        return [_group(part) for part in fields.get(4, ())]
    except (IndexError, TypeError, AttributeError, KeyError):
        raise ValueError("its footer is damaged") from None


def _group(fields: dict[int, Any]) -> RowGroup:
    chunks = []
    for column in fields[1]:
        part = column[3]
        numbers = (part[5], part[7], part[9], part.get(11, 0))
        if not all(isinstance(number, int) and number >= 0 for number in (*numbers, fields[3], *part[2])):
            raise ValueError("its footer holds a number below 0")
        chunks.append(Chunk(tuple(part[2]), *numbers))
    return RowGroup(fields[3], chunks)


def leaves(schema: Any, groups: Sequence[RowGroup], names: Sequence[str]) -> list[Leaf]:
    """Return the leaves of some columns of a table, from the schema of a parquet file."""
    found = []
    wanted = set(names)
    for index in range(len(schema)):
        part = schema.column(index)
        path = part.path.split(".")
        heads = (".".join(path[: end + 1]) for end in range(len(path)))
        name = next((head for head in heads if head in wanted), None)
        if name is not None:
            text = part.physical_type == "BYTE_ARRAY"
            size = _SIZES.get(part.physical_type) or max(1, part.length or 1)
            shared = text and part.path == name and part.logical_type.type in ("NONE", "STRING", "ENUM", "JSON")
            if shared:
                shared = all(_SHARED.issuperset(group.columns[index].encodings) for group in groups)
            found.append(Leaf(index, name, part.path, size, text, shared, part.max_repetition_level > 0))
    return found


def rows_that_fit(stream: BinaryIO, group: RowGroup, used: Sequence[Leaf], source: str) -> int:
    """Return how many rows of a row group unfold to at most a quarter of `READ_BYTES`.

    Args:
        stream: the file.
        group: the row group.
        used: the leaves that are read.
        source: what messages call the store.

    Raises:
        InputError: one page is larger than `READ_BYTES`, or a list column unfolds a hundred-fold.
        ValueError: the headers are damaged.
    """
    row_bytes = 1.0
    for leaf in used:
        if leaf.size > READ_BYTES >> 10:  # the library unpacks 1024 of them at a time
            raise InputError(
                f"{source} holds cells of {leaf.size} bytes in column {leaf.name!r}, more than are read.",
                "Write that column as bytes of any length, or leave it out.",
            )
        chunk = group.columns[leaf.index]
        size = values = stored = 0
        widest = 0.0
        for page in pages(stream, chunk):
            if page.size > READ_BYTES:
                raise InputError(
                    f"{source} holds a page or a cell of {page.size} bytes in column {leaf.name!r}; "
                    f"{READ_BYTES} are read at most.",
                    "Write that column in smaller pages or shorter cells, or leave it out.",
                )
            size, values, stored = size + page.size, values + page.values, stored + page.stored
            alone = page.encoding == _DELTA or (page.kind == _DICTIONARY and not leaf.shared)
            if alone or page.kind != _DICTIONARY:
                widest = max(widest, page.size if alone else page.size / max(1, page.values))
        unfolded = max(size, leaf.size * values)
        if leaf.repeated and unfolded > READ_BYTES and unfolded > RATIO * stored:
            raise InputError(
                f"{source} unfolds {stored} bytes of column {leaf.name!r} to {unfolded}, as a decompression bomb does.",
                f"Write real vectors; a column that packs {RATIO}-fold holds none.",
            )
        each = unfolded / max(1, group.num_rows)
        row_bytes += max(each, leaf.size, widest * max(1, values / max(1, group.num_rows)) if leaf.text else 0)
    return max(1, int(READ_BYTES / 4 / row_bytes))


def pages(stream: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """Yield the headers of the pages of a column chunk.

    Raises:
        ValueError: a header that is damaged, or pages beyond the chunk's end.
    """
    first = chunk.dictionary_page_offset
    at = first if first and first < chunk.data_page_offset else chunk.data_page_offset
    end = at + chunk.total_compressed_size
    seen = 0
    while at < end and seen < chunk.num_values:
        page, length = _header(stream, at)
        if min(page.size, page.stored, page.values) < 0:
            raise ValueError("the header of a page holds a number below 0")
        at += length + page.stored
        if page.kind in (_DATA, _DATA_2):
            seen += page.values
        yield page


def _header(stream: BinaryIO, at: int) -> tuple[Page, int]:
    """Read the header of the page that begins at a byte; return it and its length."""
    want = 512
    while True:
        stream.seek(at)
        data = stream.read(want)
        try:
            fields, length = _struct(data, 0, 0)
        except IndexError:
            if len(data) < want or want >= _HEADER:
                raise ValueError("the header of a page is cut") from None
            want *= 8
            continue
        inner: dict[int, Any] = next((fields[key] for key in (5, 7, 8) if isinstance(fields.get(key), dict)), {})
        encoding = inner.get(4 if 8 in fields else 2, 0)
        numbers = (fields.get(1, -1), fields.get(2, -1), fields.get(3, -1), inner.get(1, 0), encoding)
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError("the header of a page is damaged")
        return Page(*numbers), length


def _struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Read a struct in Thrift's compact protocol, and its end.

    Returns:
        {field number: whole number, nested struct, list of these, or None for anything else}, and where it ends.
    """
    if depth > 12:
        raise ValueError("a header is nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while data[at]:
        delta, kind = data[at] >> 4, data[at] & 15
        at += 1
        if delta:
            number += delta
        else:
            number, at = _varint(data, at)
        if kind in (1, 2):  # a boolean is its type
            fields[number] = None
        else:
            fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """Read or pass over a value of a kind."""
    if kind == 3:
        return None, at + 1
    if kind in (4, 5, 6):
        return _varint(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _raw(data, at)
        data[at + length - 1 if length else at]  # IndexError where it is cut
        return None, at + length
    if kind in (9, 10):
        return _list(data, at, depth)
    if kind == 12:
        return _struct(data, at, depth + 1)
    raise ValueError(f"a header holds a value of kind {kind}")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    """Read a list or a set."""
    count, kind = data[at] >> 4, data[at] & 15
    at += 1
    if count == 15:
        count, at = _raw(data, at)
    if count > len(data) or depth > 12:
        raise ValueError("a header holds a list that is too long or too deep")
    items = []
    for _ in range(count):
        item, at = (None, at + 1) if kind in (1, 2) else _value(data, at, kind, depth + 1)
        items.append(item)
    return items, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a zigzag number of any length up to 64 bits."""
    value, at = _raw(data, at)
    return (value >> 1) ^ -(value & 1), at


def _raw(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("the header of a page holds a number without an end")
