"""Which array of a file holds the vectors, and which belong to its rows: what .npz, .safetensors and HDF5 share.

Contents: `ArrayPart`, `Chosen`, `choose_parts`, `squeezed`, `plain_values`, `TOKENS`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from unembed.errors import InputError
from unembed.stores.arrow.values import spelt
from unembed.stores.protocol import ID_NAMES, choose_ids, choose_others, choose_vectors
from unembed.stores.quantised import SCALE_NAMES, choose_scales, takes_scales
from unembed.stores.reading import NO_ROWS, ReadOptions, check_width

TOKENS = "Give one vector per row: an array with one for each token must be pooled first, for example by the mean."
_STACK = "Stack the vectors to one array, or name the right one with --column."
_PLAIN = "Save it with one plain value per row, for example numpy.array(ids, dtype=str)"
_SHOWN = 12
_NUMBERS = ("float", "int", "uint", "BF16")  # what names of real types begin with


class ArrayPart(NamedTuple):
    """An array of a file.

    Attributes:
        shape: of the array.
        dtype: numpy's name of its type, or the format's own where numpy has none.
        shown: the type as messages have it.
        plain: whether its values can become a column of ids or metadata.
    """

    shape: tuple[int, ...]
    dtype: str
    shown: str
    plain: bool


class Chosen(NamedTuple):
    """Which arrays are read.

    Attributes:
        vectors: the array with the vectors, of `rows` rows of `width` numbers.
        ids, scale: the arrays with ids, and with one scale per row, or None.
        used: all arrays that are read, vectors included.
    """

    vectors: str
    rows: int
    width: int
    ids: str | None
    scale: str | None
    used: list[str]


def plain_values(values: Any) -> list[Any]:
    """Return an array (n) as a list; dates in ISO 8601, bytes as the text that they encode."""
    import numpy as np

    if values.dtype.kind == "M":
        return list(np.datetime_as_string(values).tolist())
    return [spelt(value) if isinstance(value, bytes) else value for value in values.tolist()]


def squeezed(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the shape (n, d) of an array of vectors, which may have sides of length 1 after the first; else None."""
    sides = shape if len(shape) == 2 else (*shape[:1], *(side for side in shape[1:] if side != 1))
    return (sides[0], sides[1]) if len(sides) == 2 and sides[1] > 0 else None


def choose_parts(
    parts: dict[str, ArrayPart],
    column: str | None,
    id_column: str | None,
    reading: ReadOptions,
    source: str,
    many: bool = False,
) -> Chosen:
    """Choose the arrays that are read.

    Args:
        parts: the arrays of the file, by name.
        column: the array of shape (n, d) with the vectors; None takes the only one.
        id_column: the array of the ids; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean, and which arrays are wanted; what is not read is noted where all are, or where
            it is named like ids.
        source: what messages call the store.
        many: arrays of other shapes are usual in the file; only those named like ids are noted.

    Raises:
        InputError: no array of vectors or several, no rows, an array that is asked for is absent or cannot be read.
    """
    vectors = _choose_vectors(parts, column, source)
    (count, width), dtype = squeezed(parts[vectors].shape) or (0, 0), parts[vectors].dtype
    check_width(width, source)
    if not count:
        raise InputError(f"{source} has no rows in {vectors!r}.", NO_ROWS)
    sides = [name for name, part in parts.items() if part.shape == (count,) and part.plain]
    unread = {name: _why(part, count) for name, part in parts.items() if name not in (vectors, *sides)}
    if many:
        unread = {name: why for name, why in unread.items() if name.lower() in ID_NAMES or name == id_column}
    ids, others = _choose_beside(sides, unread, id_column, reading, source)
    numeric = [name for name in sides if parts[name].dtype.startswith(_NUMBERS)]
    scale = choose_scales(numeric, dtype, reading.quantisation)
    odd = next((name for name in unread if name.lower() in SCALE_NAMES), None)
    if odd is not None and scale is None and takes_scales(dtype) and not reading.quantisation.given:
        raise InputError(
            f"{source} holds {odd!r} of shape {parts[odd].shape}, not one number for each of {count} rows.",
            "Give the scale with --scale.",
        )
    reading.quantisation.check(width, dtype, source)
    used = [vectors, *(name for name in sides if name in {ids, scale, *others})]
    return Chosen(vectors, count, width, ids, scale, used)


def _choose_vectors(parts: dict[str, ArrayPart], column: str | None, source: str) -> str:
    """Choose the array that holds the vectors (see `choose_vectors`)."""
    shown = {name: f"{part.shown}, {' x '.join(map(str, part.shape)) or 'one value'}" for name, part in parts.items()}
    tables = {
        name: shown[name]
        for name, part in parts.items()
        if squeezed(part.shape) is not None and part.dtype.startswith(_NUMBERS)
    }
    if tables and (column is None or column in tables):
        return choose_vectors(tables, column, source)
    listed = ", ".join(f"{name} ({text})" for name, text in list(shown.items())[:_SHOWN]) or "nothing"
    asked = "array" if column is None else f"vector column named {column!r}, an array"
    raise InputError(
        f"{source} has no {asked} of shape (rows, dimension); it holds {listed}{' and more' * (len(shown) > _SHOWN)}.",
        TOKENS if any(len(part.shape) > 2 for name, part in parts.items() if column in (None, name)) else _STACK,
    )


def _why(part: ArrayPart, count: int) -> str:
    """Say in a clause why an array beside the vectors is not read."""
    if part.dtype == "object" and not part.plain:
        return "it holds Python objects, which are never unpickled"
    if part.shape != (count,):
        return f"it has the shape {part.shape}, not one value for each of {count} rows"
    return f"its values are of type {part.shown}"


def _choose_beside(
    sides: list[str], unread: dict[str, str], id_column: str | None, reading: ReadOptions, source: str
) -> tuple[str | None, list[str]]:
    """Choose the arrays of ids and of metadata among those with one value per row; note the others with a reason."""
    for name in sorted({id_column or "", *(reading.wanted or ())}.intersection(unread)):
        raise InputError(f"{source} has no column named {name!r} that can be read: {unread[name]}.", f"{_PLAIN}.")
    ids = choose_ids(sides, id_column, source)
    for name, why in unread.items():
        missed = ids is None and name.lower() in ID_NAMES
        if missed or reading.wanted is None:
            instead = " Rows are numbered instead." if missed else ""
            reading.note(f"{name!r} of {source} is not read: {why}.{instead} {_PLAIN}.")
    return ids, choose_others([name for name in sides if name != ids], reading, source)
