"""Cells of Arrow columns as plain Python values, for ids and for the columns beside the vectors.

A value keeps its exact form, and no value of an intact column is an error: whole numbers stay whole numbers, decimals,
dates, times and UUIDs become text, dates in any year. Bytes become the text that they encode, else hexadecimal digits.
Equal cells of a dictionary are one object, however many rows use it.
Lists are read as they are stored: under extension types, dictionaries, runs, and lists of one list.
"""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

_CELLS = 1 << 24  # values under the rows of one batch; lists may repeat the same numbers
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ZEROS = re.compile(r"\.0+$")


def cells(column: Any) -> list[Any]:
    """Return the values of a pyarrow array: numbers, text, lists, dicts and None.

    Raises:
        ValueError: lists of more values than a batch may have.
    """
    import pyarrow as pa

    kind, types = column.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name != "arrow.uuid":
            return cells(column.storage)
        return [None if value is None else str(UUID(bytes=value)) for value in _bytes(column.storage)]
    if types.is_dictionary(kind):
        return _shared(column.indices, column.dictionary)
    if types.is_run_end_encoded(kind):
        return _runs(column)
    if (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
        or is_text(kind)
    ):
        return list(column.to_pylist())
    if types.is_decimal(kind):
        return [None if value is None else format(value, "f") for value in column.to_pylist()]
    if is_bytes(kind):
        fixed = types.is_fixed_size_binary(kind)
        return [None if value is None else spelt(value.rstrip(b"\0") if fixed else value) for value in _bytes(column)]
    if types.is_date(kind) or types.is_timestamp(kind):
        return _dates(column)
    if types.is_time(kind):
        return list(column.cast(pa.string()).to_pylist())
    if types.is_struct(kind):
        names = [field.name for field in kind]
        parts = [cells(part) for part in column.flatten()]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True)] or [{}] * len(column)
        return [row if valid else None for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)]
    if types.is_map(kind):
        return _lists(column.cast(pa.list_(pa.struct([kind.key_field, kind.item_field]))))
    if is_list(kind):
        return _lists(column)
    return [_any(value) for value in column]


def is_list(kind: Any) -> bool:
    """Return whether an Arrow type is one of lists."""
    import pyarrow as pa

    views = [getattr(pa.types, name, None) for name in ("is_list_view", "is_large_list_view")]  # since pyarrow 16
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, *views)
    return any(check(kind) for check in checks if check is not None)


def is_text(kind: Any) -> bool:
    """Return whether an Arrow type is one of text."""
    import pyarrow as pa

    view = getattr(pa.types, "is_string_view", None)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or (view is not None and view(kind)))


def is_bytes(kind: Any) -> bool:
    """Return whether an Arrow type is one of bytes."""
    import pyarrow as pa

    view = getattr(pa.types, "is_binary_view", None)
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, view)
    return any(check(kind) for check in checks if check is not None)


def _bytes(column: Any) -> list[bytes | None]:
    return list(column.to_pylist())


def spelt(value: bytes) -> str:
    """Return the text that bytes spell, or their hexadecimal digits."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return value.hex() if _CONTROL.search(text) else text


def _dates(column: Any) -> list[str | None]:
    """Return dates and times in ISO 8601; those of a time zone in UTC."""
    import numpy as np
    import pyarrow as pa

    kind = column.type
    unit = "D" if pa.types.is_date32(kind) else "ms" if pa.types.is_date64(kind) else kind.unit
    numbers = column.cast(pa.int32()).cast(pa.int64()) if unit == "D" else column.cast(pa.int64())
    values = numbers.fill_null(0).to_numpy(zero_copy_only=False).view(f"M8[{unit}]")
    if pa.types.is_date(kind):
        values = values.astype("M8[D]")
    zone = "+00:00" if pa.types.is_timestamp(kind) and kind.tz is not None else ""
    texts = [_ZEROS.sub("", text) + zone for text in np.datetime_as_string(values).tolist()]
    return [text if valid else None for text, valid in zip(texts, column.is_valid().to_pylist(), strict=True)]


def _shared(indices: Any, values: Any) -> list[Any]:
    """Return values by their places, each of them made once."""
    import pyarrow.compute as pc

    used = pc.unique(indices.drop_null())
    made = dict(zip(used.to_pylist(), cells(values.take(used)), strict=True))
    return [None if place is None else made[place] for place in indices.to_pylist()]


def _runs(column: Any) -> list[Any]:
    """Return the values of a run-end encoded column."""
    import numpy as np

    ends = column.run_ends.to_numpy()
    places = np.searchsorted(ends, np.arange(column.offset, column.offset + len(column)), side="right")
    made = cells(column.values.slice(int(places[0]), int(places[-1] - places[0]) + 1)) if len(places) else []
    return [made[place - places[0]] for place in places.tolist()]


def _lists(column: Any) -> list[Any]:
    """Return the lists of a list column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_fixed_size_list(column.type):
        lengths = [column.type.list_size if valid else None for valid in column.is_valid().to_pylist()]
    else:
        lengths = pc.list_value_length(column).to_pylist()
    total = sum(length or 0 for length in lengths)
    if total > _CELLS:
        raise ValueError(f"{len(column)} rows hold lists of {total} values")
    flat = cells(column.flatten())
    rows: list[Any] = []
    at = 0
    for length in lengths:
        rows.append(None if length is None else flat[at : at + length])
        at += length or 0
    return rows


def _any(value: Any) -> Any:
    """Return a value of a rare type as text."""
    try:
        return None if value.as_py() is None else str(value.as_py())
    except Exception:  # pyarrow raises anything; one value must not spoil a file
        return str(value)


class Lists:
    """The lists of an array of lists, and the place of each row's among them.

    Attributes:
        lists: an array of a plain list type.
        places: for each row, the place of its list: -1 for none, -2 where the row holds several.
        lengths: for each row, the length of its list; 0 for none, -2 for several.
    """

    def __init__(self, column: Any) -> None:
        import numpy as np
        import pyarrow as pa

        self.lists, self.places = _located(column)
        if pa.types.is_fixed_size_list(self.lists.type):
            sizes: Any = np.full(len(self.lists), self.lists.type.list_size)
        else:
            sizes = _sizes(self.lists)
        if not len(sizes):
            sizes = np.zeros(1, np.int64)
        self.lengths = np.where(self.places >= 0, sizes[np.maximum(self.places, 0)], np.minimum(self.places + 1, 0) * 2)


def _located(column: Any) -> tuple[Any, Any]:
    """Follow dictionaries, runs and lists of one list; return an array of lists and each row's place in it."""
    import numpy as np
    import pyarrow as pa

    column = stored(column)
    kind = column.type
    inner: Any
    if pa.types.is_dictionary(kind):
        lists, inside = _located(column.dictionary)
        inner = column.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    elif pa.types.is_run_end_encoded(kind):
        lists, inside = _located(column.values)
        rows = np.arange(column.offset, column.offset + len(column))
        inner = np.searchsorted(column.run_ends.to_numpy(), rows, side="right")
    elif is_list(plain_type(stored_type(kind.value_type))):
        sizes = np.full(len(column), kind.list_size) if pa.types.is_fixed_size_list(kind) else _sizes(column)
        single = sizes == 1
        valid = np.asarray(column.is_valid())
        if not (single & valid).any() and valid.any():
            return column, np.where(valid & (sizes > 0), -2, -1)
        rows = np.flatnonzero(single & valid)
        lists, inside = _located(column.take(pa.array(rows)).flatten())
        places = np.where(valid & (sizes > 0), -2, -1)
        places[rows] = inside
        return lists, places
    else:
        return column, np.where(np.asarray(column.is_valid()), np.arange(len(column)), -1)
    if not len(inside):
        return lists, np.full(len(column), -1)
    return lists, np.where(inner >= 0, inside[np.maximum(inner, 0)], -1)


def _sizes(lists: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.list_value_length(lists).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)


def stored(column: Any) -> Any:
    """Return an array of the type under an extension type."""
    import pyarrow as pa

    return column.storage if isinstance(column.type, pa.BaseExtensionType) else column


def stored_type(kind: Any) -> Any:
    """Return the type under an extension type."""
    import pyarrow as pa

    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def plain_type(kind: Any) -> Any:
    """Return the type of the values of a dictionary or of runs."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return stored_type(kind.value_type)
    return kind
