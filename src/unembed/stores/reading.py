"""How a store is read: quantised numbers, bad rows, and what happens when a library fails on a file.

Contents: `ReadOptions` (what every reader is given), `BadRow` (the report of a row that is left out), `guarded` and
`translated` (whatever a library raises about a damaged file becomes one InputError), and `RESTORE`.

`look` sees the first batch of a store before scales are applied, for numbers that are unlikely to be embeddings: token
ids are refused, bytes and numbers of one sign get a note.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from unembed.errors import InputError, UnembedError
from unembed.stores.quantised import Quantisation

if TYPE_CHECKING:
    import numpy as np


RESTORE = "Restore the file from where it was made."
NO_ROWS = "Give a file with at least one vector."
MAX_DIMENSION = 1 << 20  # no encoder is near it; a damaged header is
READ_BYTES = 1 << 28  # a batch of wide rows is cut so that it stays below this many bytes
RATIO = 100  # unpacked bytes per stored byte; vectors shrink by less than 5, bits as float64 by 64
PEEK = 1000  # rows that are looked at for the first good one

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadRow:
    """A row that holds no usable vector.

    Attributes:
        row: its number in the store, counted from 0.
        reason: one sentence that names the row (or the line), the store and what is wrong.
    """

    row: int
    reason: str


@dataclass(frozen=True)
class ReadOptions:
    """What a reader is given besides the names of the columns.

    Attributes:
        quantisation: what the stored numbers mean.
        on_bad: called with each row that is bad, which is then left out; None raises InputError at the first one.
        on_note: called with what a user should know of a file that is still read; None: a warning in the log.
        header: whether the first line of a table of text names its columns; None: judge by the first rows.
        wanted: the columns besides ids and vectors that the caller uses; None takes all of them.
    """

    quantisation: Quantisation = field(default_factory=Quantisation)
    on_bad: Callable[[BadRow], None] | None = None
    on_note: Callable[[str], None] | None = None
    wanted: frozenset[str] | None = None
    header: bool | None = None
    _done: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @property
    def skips(self) -> bool:
        """Whether bad rows are left out instead of ending the reading."""
        return self.on_bad is not None

    @property
    def peek(self) -> int:
        """How many rows may be looked at to find the first good one."""
        return PEEK if self.skips else 1

    def note(self, text: str) -> None:
        """Report once, in whole sentences, what is odd in a file that is still read."""
        if not self.once(text):
            return
        if self.on_note is None:
            _LOG.warning("%s", text)
        else:
            self.on_note(text)

    def once(self, what: str) -> bool:
        """Return whether this is the first call with `what`."""
        known = what in self._done
        self._done.add(what)
        return not known

    def reject(self, row: int, what: str, do: str) -> None:
        """Report a bad row.

        Args:
            row: its number from 0.
            what: one sentence on what is wrong and where.
            do: one sentence on what to do.

        Raises:
            InputError: of both sentences, unless bad rows are skipped.
        """
        if self.on_bad is None:
            raise InputError(what, do)
        self.on_bad(BadRow(row, what))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, cut to 200 characters and without its final stop."""
    lines = str(error).splitlines()
    return (lines[0] if lines and lines[0].strip() else type(error).__name__)[:200].rstrip(". ")


@contextlib.contextmanager
def translated(source: str, kind: str) -> Iterator[None]:
    """Turn what a library raises about a damaged file into InputError; only the library's calls belong in the block.

    Args:
        source: what messages call the store.
        kind: what the file should be, for example "parquet".

    Raises:
        InputError: for every exception of the block that is not one of ours.
    """
    try:
        yield
    except UnembedError:
        raise
    except Exception as error:
        raise InputError(f"{source} cannot be read as {kind} ({first_line(error)}).", RESTORE) from error


def guarded(items: Iterable[T], source: str, kind: str) -> Iterator[T]:
    """Yield the items; what goes wrong while the next one is fetched becomes InputError (see `translated`)."""
    iterator = iter(items)
    while True:
        with translated(source, kind):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def check_width(width: int, source: str) -> None:
    """Refuse a dimension that no encoder has.

    Raises:
        InputError: above `MAX_DIMENSION` or below 1.
    """
    if not 1 <= width <= MAX_DIMENSION:
        raise InputError(
            f"{source} announces vectors of {width} numbers, outside 1 to {MAX_DIMENSION}.",
            "Store an array of shape (rows, dimension), or restore the file if it is damaged.",
        )


ENOUGH = 16  # numbers per row; fewer may be whole or positive by chance
_USED = "They are used as they are"


def look(array: Any, source: str, reading: ReadOptions) -> None:
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


def _whole_numbers(low: int, high: int, source: str, reading: ReadOptions) -> None:
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
