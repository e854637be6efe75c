"""Which array of a file holds the vectors, and which belong to its rows: what .npz, .safetensors and HDF5 share."""

from __future__ import annotations

from typing import Any

from unembed.errors import InputError
from unembed.stores.arrow.values import spelt
from unembed.stores.protocol import ID_NAMES, choose_ids, choose_others, choose_vectors
from unembed.stores.reading import Reading

TOKENS = "Give one vector per row: an array with one for each token must be pooled first, for example by the mean."
_STACK = "Stack the vectors to one array, or name the right one with --column."
_PLAIN = "Save it with one plain value per row, for example numpy.array(ids, dtype=str)"
_SHOWN = 12


def plain_values(values: Any) -> list[Any]:
    """Return an array (n) as a list; dates in ISO 8601, bytes as the text that they spell."""
    import numpy as np

    if values.dtype.kind == "M":
        return list(np.datetime_as_string(values).tolist())
    return [spelt(value) if isinstance(value, bytes) else value for value in values.tolist()]


def squeezed(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the shape (n, d) of an array of vectors, which may have sides of length 1 after the first; else None."""
    sides = shape if len(shape) == 2 else (*shape[:1], *(side for side in shape[1:] if side != 1))
    return (sides[0], sides[1]) if len(sides) == 2 and sides[1] > 0 else None


def choose_array(shapes: dict[str, tuple[tuple[int, ...], str]], column: str | None, source: str) -> str:
    """Choose the array that holds the vectors (see `choose_vectors`).

    Args:
        shapes: shape and type of every array.
        column: the one asked for, or None.
        source: what messages call the store.

    Raises:
        InputError: there is none, there are several, or the one asked for cannot hold vectors.
    """
    shown = {name: f"{kind}, {' x '.join(map(str, shape)) or 'one value'}" for name, (shape, kind) in shapes.items()}
    tables = {
        name: shown[name]
        for name, (shape, kind) in shapes.items()
        if squeezed(shape) is not None and kind.lstrip("<>=|")[:1] in tuple("fiu")
    }
    if tables and (column is None or column in tables):
        return choose_vectors(tables, column, source)
    listed = ", ".join(f"{name} ({text})" for name, text in list(shown.items())[:_SHOWN]) or "nothing"
    asked = "array" if column is None else f"vector column named {column!r}, an array"
    sides = [shape for name, (shape, _) in shapes.items() if column in (None, name)]
    raise InputError(
        f"{source} has no {asked} of shape (rows, dimension); it holds {listed}{' and more' * (len(shown) > _SHOWN)}.",
        TOKENS if any(len(shape) > 2 for shape in sides) else _STACK,
    )


def choose_beside(
    sides: list[str], unread: dict[str, str], id_column: str | None, reading: Reading, source: str
) -> tuple[str | None, list[str]]:
    """Choose the arrays of ids and of metadata.

    Args:
        sides: arrays with one value per row.
        unread: why each other array is not read, as a clause.
        id_column: the array of the ids; None takes one with a usual name.
        reading: which are wanted; what is not read is noted where all are, or where it is named like ids.
        source: what messages call the store.

    Raises:
        InputError: an array that is asked for is not there or cannot be read.
    """
    for name in sorted({id_column or "", *(reading.wanted or ())}.intersection(unread)):
        raise InputError(f"{source} has no column named {name!r} that can be read: {unread[name]}.", f"{_PLAIN}.")
    id_name = choose_ids(sides, id_column, source)
    for name, why in unread.items():
        missed = id_name is None and name.lower() in ID_NAMES
        if missed or reading.wanted is None:
            instead = " Rows are numbered instead." if missed else ""
            reading.note(f"{name!r} of {source} is not read: {why}.{instead} {_PLAIN}.")
    return id_name, choose_others([name for name in sides if name != id_name], reading, source)
