"""What stored numbers mean: scales and offsets of int8 and uint8 vectors, and binary vectors packed eight to a byte.

    vector = scale * stored + offset

Sentence-transformers' `quantize_embeddings` keeps, for "uint8", floor((x - low) / step) with step = (high - low) / 255
for each dimension, 128 less for "int8"; its `ranges` (low and high, shape (2, d)) may be given as the scale, and each
number is then put in the middle of its step. It packs "ubinary" as `numpy.packbits(x > 0)` into uint8, and "binary" as
the same less 128 into int8; both unpack here, the first dimension from the most significant bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unembed.errors import InputError

if TYPE_CHECKING:
    import numpy as np

SCALE_NAMES = ("scale", "scales")
_BYTES = ("int8", "uint8")


@dataclass(frozen=True, eq=False)
class Quantisation:
    """What the numbers of a store mean.

    Attributes:
        scale: one number, one per dimension (shape (d,)), sentence-transformers' ranges (shape (2, d)), or None.
        offset: one number or one per dimension, added after the scale; None is 0.
        packed: each number is a byte that holds eight dimensions, which become -1 and +1.

    Raises:
        InputError: packed vectors with a scale, ranges with an offset, numbers that are not finite.
    """

    scale: Any = None
    offset: Any = None
    packed: bool = False

    def __post_init__(self) -> None:
        if self.packed and not (self.scale is None and self.offset is None):
            raise InputError("Packed bits have neither scale nor offset.", "Leave out --scale and --offset.")
        if self.scale is None and self.offset is None:
            return
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if value is not None:
                object.__setattr__(self, name, _numbers(value, name))
        if self.scale is not None and self.scale.ndim == 2 and (self.offset is not None or len(self.scale) != 2):
            raise InputError(
                f"A scale of shape {self.scale.shape} is given{' with an offset' * (self.offset is not None)}.",
                "Give one number, one per dimension, or ranges of shape (2, dimension) without an offset.",
            )
        if self.offset is not None and self.offset.ndim == 2:
            raise InputError(
                f"An offset of shape {self.offset.shape} is given.", "Give one number or one per dimension."
            )

    @property
    def given(self) -> bool:
        """Whether anything is set."""
        return self.packed or self.scale is not None or self.offset is not None

    def dimension(self, width: int) -> int:
        """Return the dimension of vectors of which `width` numbers are stored."""
        return 8 * width if self.packed else width

    def check(self, width: int, dtype: str, source: str) -> None:
        """Check that this fits a store.

        Args:
            width: numbers stored per row.
            dtype: their type, for example "int8"; "" where a text file does not say.
            source: what messages call the store.

        Raises:
            InputError: scale or offset of another dimension, or packed numbers that cannot be bytes.
        """
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if value is not None and value.ndim and value.shape[-1] not in (1, width):
                raise InputError(
                    f"The {name} has {value.shape[-1]} numbers; the vectors of {source} have dimension {width}.",
                    f"Give a {name} of one number, or one per dimension.",
                )
        if self.packed and dtype.startswith(("float", "F", "BF", "half", "double")):
            raise InputError(
                f"{source} holds {dtype} numbers, not packed bytes.", "Leave out --packed, or store uint8 or int8."
            )

    def fits(self, array: np.ndarray) -> np.ndarray:
        """Return for each stored row (n, width) whether its numbers can mean what they should: bool, shape (n,)."""
        import numpy as np

        if not self.packed or array.dtype.name in _BYTES:
            return np.ones(len(array), dtype=bool)
        with np.errstate(invalid="ignore"):
            return np.asarray(((array >= 0) & (array <= 255) & (array == np.floor(array))).all(axis=1))

    def decode(self, array: np.ndarray, row_scale: Any = None) -> np.ndarray:
        """Turn stored numbers into vectors.

        Args:
            array: stored numbers that fit (see `fits`), shape (n, width).
            row_scale: one scale per row (n), used for int8 and uint8 where none is given; or None.

        Returns:
            Shape (n, d): the array itself where nothing is set, else float32.
        """
        import numpy as np

        if self.packed:
            return _unpack(array)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.scale is not None and self.scale.ndim == 2:
                low, high = self.scale.astype(np.float64)
                step = (high - low) / 255
                step = np.where(step == 0, 1, step)
                middle = 128.5 if array.dtype == np.int8 else 0.5
                wide: np.ndarray = (array + middle) * step + low
                return wide.astype(np.float32)
            if self.scale is None and row_scale is not None and array.dtype.name in _BYTES:
                column = np.asarray(row_scale, dtype=np.float64)[:, None]
                array = (array * column).astype(np.float32)
            if self.scale is not None:
                array = (array * self.scale).astype(np.float32)
            if self.offset is not None:
                array = (array + self.offset).astype(np.float32)
        return array

    def round(self, vectors: np.ndarray) -> np.ndarray:
        """Do to vectors (n, d) what storing them with these numbers and reading them again does; float32.

        Only for a scale; without one the vectors come back as they are.
        """
        import numpy as np

        if self.scale is None:
            return vectors
        wide = np.asarray(vectors, dtype=np.float64)
        if self.scale.ndim == 2:
            low, high = self.scale.astype(np.float64)
            step = (high - low) / 255
            step = np.where(step == 0, 1, step)
            ranged: np.ndarray = (np.clip(np.floor((wide - low) / step), 0, 255) + 0.5) * step + low
            return ranged.astype(np.float32)
        shift = 0.0 if self.offset is None else self.offset
        factor = np.where(self.scale == 0, 1, self.scale)
        stored: np.ndarray = np.round((wide - shift) / factor) * factor + shift
        return stored.astype(np.float32)


def takes_scales(dtype: str) -> bool:
    """Return whether scales stored with numbers of this type belong to them."""
    return dtype in _BYTES


def choose_scales(columns: list[str], dtype: str, quantisation: Quantisation) -> str | None:
    """Return the column that holds one scale per row: for bytes, where none is given, by its name."""
    if quantisation.packed or quantisation.scale is not None or not takes_scales(dtype):
        return None
    return next((name for name in columns if name.lower() in SCALE_NAMES), None)


def parse_numbers(text: str, name: str) -> Any:
    """Read what the command line gives for a scale or an offset.

    Args:
        text: a number, several with commas between, or the path of a .npy file.
        name: "scale" or "offset", for messages.

    Returns:
        An array of shape (), (d,) or, from a file, any shape; float64.

    Raises:
        InputError: anything else.
    """
    import numpy as np

    if text.lower().endswith(".npy"):
        return _numbers(_load(Path(text), name), name)
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(
            f"--{name} {text[:60]!r} is neither a number nor a .npy file.",
            "Give one number, numbers with commas between, or a .npy file with one per dimension.",
        ) from error
    return _numbers(np.asarray(values if len(values) > 1 else values[0]), name)


def _load(path: Path, name: str) -> Any:
    """Read a small .npy file of numbers."""
    import numpy as np

    try:
        with open(path, "rb") as stream:
            array = np.lib.format.open_memmap(path, mode="r") if stream.read(6) == b"\x93NUMPY" else None
    except Exception as error:
        raise InputError(f"{path} cannot be read as a .npy array of the {name}.", "Check the path.") from error
    if array is None or array.dtype.kind not in "fiu" or array.size > 1 << 21:
        raise InputError(f"{path} is not a .npy array with the numbers of a {name}.", "Save one number per dimension.")
    return np.array(array)


def _numbers(value: Any, name: str) -> Any:
    """Make an array of a scale or offset."""
    import numpy as np

    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"The {name} is not made of numbers.", "Give one number, or one per dimension.") from error
    if array.ndim > 2 or not array.size or not np.isfinite(array).all():
        raise InputError(
            f"The {name} has shape {array.shape} or holds values that are not finite.",
            "Give one finite number, or one per dimension.",
        )
    return array


def _unpack(array: np.ndarray) -> np.ndarray:
    """Turn bytes (n, w) into float32 of -1 and +1 (n, 8w)."""
    import numpy as np

    if array.dtype == np.int8:
        array = array.view(np.uint8) ^ np.uint8(128)  # sentence-transformers' "binary" is 128 less
    bits = np.unpackbits(np.ascontiguousarray(array, dtype=np.uint8), axis=1)
    return bits.astype(np.float32) * 2 - 1
