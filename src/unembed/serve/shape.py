"""What a JSON text holds, counted without parsing it: so that only bodies of a plausible shape are parsed.

Contents: `Shape`, `Shaped`, `shape_of`.

A parser makes an object for every value and a checker an error for every wrong one, and both hold the interpreter while
they do. Counting takes a few passes over the bytes, whatever they are.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel

BLOCK = 1 << 20


class Shape(NamedTuple):
    """Numbers of things in a JSON text; upper bounds where it is not JSON.

    Attributes:
        lists: opened lists.
        objects: opened objects.
        keys: keys of objects.
        values: values of lists and objects, and the whole.
    """

    lists: int
    objects: int
    keys: int
    values: int

    def exceeds(self, most: Shape) -> str | None:
        """Name the first thing there is more of than `most` allows, None where there is none."""
        for name, found, allowed in zip(self._fields, self, most, strict=True):
            if found > allowed:
                return f"{found:,} {name}, and at most {allowed:,} can be meant"
        return None


class Shaped(BaseModel):
    """A body with bounds on what its JSON holds."""

    shape: ClassVar[Shape]


def shape_of(text: bytes) -> Shape:
    """Count what lies outside of strings."""
    counts = np.zeros(4, dtype=np.int64)
    inside = False
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in text else text
    whole = np.frombuffer(plain, dtype=np.uint8)
    for start in range(0, len(whole), BLOCK):
        part = whole[start : start + BLOCK]
        within = np.logical_xor.accumulate(part == ord('"')) ^ inside
        inside = bool(within[-1])
        outside = part[~within]
        counts += [np.count_nonzero(outside == ord(sign)) for sign in "[{:,"]
    lists, objects, keys, commas = (int(count) for count in counts)
    return Shape(lists, objects, keys, commas + lists + objects + 1)
