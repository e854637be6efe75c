"""Vectors that are written as text, in a cell of a table or a string of JSON.

    [0.1, 0.2]  [0.1 0.2]  {0.1,0.2}  (0.1, 0.2)  array([...], dtype=float32)  tensor([...])  [np.float32(0.1), ...]
    0.1 0.2 ...  0,1;0,2;...  base64 or hexadecimal digits of float32 or float64

Contents: `parse_vector`, `as_vector`, `is_number`, `to_numbers`, `from_bytes`, `is_missing`, `oddity`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

_CLOSING = {"[": "]", "{": "}", "(": ")"}
_WRAPPED = re.compile(r"(?:\w+\.)?(?:array|tensor|Tensor|Vector|vector|list|tuple|memmap)\s*\((.*)\)", re.S)
_DETAILS = re.compile(r",\s*(?:dtype|device|grad_fn|requires_grad|size|shape|layout)\s*=.*$", re.S)
_TENSORFLOW = re.compile(r"<tf\.\w+.*?numpy=\s*(.*)>", re.S)
_SCALAR = re.compile(r"(?:(?:np|numpy)\.float\d+|Decimal)\(([^()]*)\)")
_DIGITS = re.compile(r"[A-Za-z0-9+/_-]{64,}={0,2}")
_MISSING = frozenset(("", "null", "none", "nan", "na", "n/a", "<na>", "\\n", "nil", "[]", "{}"))
_BARE = 8  # numbers without brackets; fewer may be a date, a phone number or coordinates
_SHORTEST = 3  # characters: "[1]"
_DEEP = 3  # wrappers around one list


def is_missing(cell: Any) -> bool:
    """Return whether a cell is marked as having no value."""
    return cell is None or (isinstance(cell, str) and len(cell) < 8 and cell.strip().lower() in _MISSING)


def parse_vector(cell: str) -> list[float]:
    """Read the vector that a cell holds.

    Raises:
        ValueError: it holds none, or not only numbers; the message says why.
    """
    return _parse(cell.strip(), 0)


def as_vector(cell: str) -> list[float] | None:
    """Read the vector that a cell holds, or return None."""
    if len(cell) < _SHORTEST:
        return None
    try:
        return parse_vector(cell) or None
    except ValueError:
        return None


def oddity(cell: Any) -> str:
    """Say in a clause why a cell that should hold a vector cannot be read as one."""
    if is_missing(cell):
        return "it is empty"
    if not isinstance(cell, str):
        return f"it is of type {type(cell).__name__}"
    try:
        parse_vector(cell)
    except ValueError as error:
        return str(error)
    return "it holds no numbers"


def _parse(cell: str, depth: int) -> list[float]:
    first, last = cell[:1], cell[-1:]
    if depth > _DEEP:
        raise ValueError("its lists are nested")
    if first in ("'", '"') and first == last and len(cell) > 1:
        return _parse(cell[1:-1].strip(), depth + 1)
    if first in _CLOSING:
        if last != _CLOSING[first]:
            raise ValueError(f"its {first} has no {_CLOSING[first]} at the end: it was cut, or something follows it")
        return _listed(cell[1:-1].strip(), depth)
    if first.isalpha() and (wrapped := _WRAPPED.fullmatch(cell)) is not None:
        return _parse(_DETAILS.sub("", wrapped[1]).strip(), depth + 1)
    if first == "<" and (wrapped := _TENSORFLOW.fullmatch(cell)) is not None:
        return _parse(wrapped[1].strip(), depth + 1)
    stored = _bytes(cell)
    if stored is not None:
        return from_bytes(stored)
    numbers = _numbers(cell)
    if len(numbers) < _BARE:
        raise ValueError("it has no brackets around its numbers")
    return numbers


def _listed(inner: str, depth: int) -> list[float]:
    """Read what is between brackets: numbers, or one more list."""
    if inner[:1] in _CLOSING or inner[:5] in ("array", "tenso", "np.ar"):
        if inner.count(inner[:1]) > 1 and inner[:1] in _CLOSING:
            raise ValueError("it holds several lists of numbers")
        return _parse(inner.rstrip(", "), depth + 1)
    return _numbers(inner)


def _numbers(inner: str) -> list[float]:
    """Read numbers with commas, semicolons, bars or spaces between; decimal commas where semicolons are."""
    if "..." in inner or "…" in inner:
        raise ValueError("numbers are left out of it ('...')")
    if "(" in inner:
        inner = _SCALAR.sub(r"\1", inner)
    if "'" in inner or '"' in inner:
        inner = inner.replace("'", "").replace('"', "")
    if ";" in inner:
        inner = (inner.replace(",", ".") if "." not in inner else inner).replace(";", ",")
    elif "|" in inner:
        inner = inner.replace("|", ",")
    parts = inner.split(",") if "," in inner else inner.split()
    if len(parts) > 1 and not parts[-1].strip():
        parts.pop()
    try:
        return to_numbers(parts)
    except ValueError:
        wrong = next(part for part in parts if not is_number(part))
        shown = " ".join(wrong.split())
        what = repr(shown if len(shown) < 40 else f"{shown[:37]}...") if shown else "nothing"
        raise ValueError(f"{what} is found where a number should be") from None


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, in the digits 0 to 9."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and (cell.isascii() or cell.strip().isascii())


def to_numbers(cells: Sequence[str]) -> list[float]:
    """Return the numbers that cells hold.

    Raises:
        ValueError: one of them is none (see `is_number`).
    """
    numbers = [float(cell) for cell in cells]
    whole = "".join(cells)
    if ("_" in whole or not whole.isascii()) and not all(map(is_number, cells)):
        raise ValueError("a cell that is not a number")
    return numbers


def _bytes(cell: str) -> bytes | None:
    """Return the bytes that a cell spells in base64, or in hexadecimal digits after 0x or \\x."""
    try:
        if cell[:2] in ("0x", "\\x"):
            return bytes.fromhex(cell[2:])
        if _DIGITS.fullmatch(cell):
            plain = cell.rstrip("=").replace("-", "+").replace("_", "/")
            return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (ValueError, binascii.Error):
        return None
    return None


def from_bytes(stored: bytes) -> list[float]:
    """Return the float32 or float64 that bytes hold, whichever makes sense.

    Raises:
        ValueError: neither.
    """
    import numpy as np

    for kind in ("<f4", "<f8"):
        if len(stored) % int(kind[2]) == 0:
            array = np.frombuffer(stored, dtype=kind).astype(np.float64)
            size = np.abs(array)
            if kind == "<f4" and len(array) % 2 == 0 and not array[::2].any() and array.any():
                continue  # the lower halves of float64
            if len(array) and bool(((size == 0) | ((size > 1e-12) & (size < 1e4))).all()):
                return [float(value) for value in array]
    raise ValueError("its bytes are neither float32 nor float64")
