"""Numbers that are unlikely to be embeddings: token ids are refused, bytes and numbers of one sign get a note.

Contents: `look`. It sees the first batch of a store, before scales are applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unembed.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from unembed.stores.reading import Reading

ENOUGH = 16  # numbers per row; fewer may be whole or positive by chance
_USED = "They are used as they are"


def look(array: Any, source: str, reading: Reading) -> None:
    """Note or refuse stored numbers that no encoder gives, unless their meaning is given.

    Args:
        array: the first rows, shape (n, width), of any real type.
        source: what messages call the store.
        reading: where notes go; nothing is said where it has a scale, an offset or packed bits.

    Raises:
        InputError: whole numbers beyond a byte, which are token ids or counts.
    """
    import numpy as np

    if reading.quantisation.given or not array.size or not reading.once(f"look at {source}"):
        return
    stored_bytes = array.dtype.name in ("int8", "uint8")
    if array.shape[1] < ENOUGH and not stored_bytes:
        return
    with np.errstate(invalid="ignore", over="ignore"):
        finite = array[np.isfinite(array).all(axis=1)] if array.dtype.kind == "f" else array
        if not finite.any():
            return
        low, high = finite.min(), finite.max()
        if stored_bytes or _whole(finite):
            _whole_numbers(int(low), int(high), source, reading)
        elif low >= 0:
            reading.note(
                f"{source} holds no number below 0, where embeddings have both signs. {_USED}; "
                "if they were shifted, undo that with --offset, or name another column with --column."
            )


def _whole(array: np.ndarray) -> bool:
    """Return whether all numbers (n, width) are whole; one row is looked at before the others."""
    import numpy as np

    return array.dtype.kind in "iu" or all(bool((part == np.floor(part)).all()) for part in (array[:1], array))


def _whole_numbers(low: int, high: int, source: str, reading: Reading) -> None:
    """Note bytes, refuse what is beyond them."""
    holds = f"{source} holds whole numbers from {low} to {high}"
    if low < -128 or high > 255:
        raise InputError(
            f"{holds}, as token ids and counts are, where embeddings are fractions.",
            "Name the right column with --column, or give --scale (1 takes them as they are) if these are vectors.",
        )
    if low < 0:
        reading.note(f"{holds}, as quantised vectors do. {_USED}, so only their direction counts; --scale undoes it.")
    else:
        reading.note(
            f"{holds}: quantised to uint8, packed bits, counts or token ids. {_USED}; uint8 is usually shifted, and "
            "its direction is right only with --scale and --offset, packed bits only with --packed."
        )
