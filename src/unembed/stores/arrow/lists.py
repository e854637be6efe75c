"""Arrow arrays of lists as they are stored: under extension types, dictionaries, runs, and lists of one list."""

from __future__ import annotations

from typing import Any

from unembed.stores.arrow.values import is_list


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
