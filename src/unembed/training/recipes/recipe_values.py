"""What a value of a recipe may be: numbers within bounds, one of several words, a time.

Contents: `within`, `parse_duration`, and the bounds `SHARE`, `BELOW_ONE`, `COUNT`, `SEED`, `WEIGHT`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from unembed.checks import bound, shown
from unembed.errors import RecipeError

Bounds = tuple[float, float]
SHARE: Bounds = (0, 1)
BELOW_ONE: Bounds = (0, math.nextafter(1, 0))
COUNT: Bounds = (0, 10**12)
SEED: Bounds = (0, 2**63 - 1)
WEIGHT: Bounds = (0, 1e6)
_LONGEST = 10 * 366 * 86400.0


def within(table: str, part: Any, bounds: Mapping[str, Bounds]) -> None:
    """Refuse attributes of a table, or members of a list there, that are not from the first to the second number.

    Raises:
        RecipeError: naming the key and its bounds.
    """
    for name, (low, high) in bounds.items():
        value = getattr(part, name)
        for one in value if isinstance(value, tuple) else (value,):
            bound(f"{table}.{name}", one, low, high, RecipeError, whole=isinstance(one, int))


def parse_duration(text: str) -> float:
    """Seconds in "90", "90s", "9m", "1.5h"; 0 for "".

    Raises:
        RecipeError: not a duration.
    """
    if not text:
        return 0.0
    factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1].lower())
    number = text[:-1] if factor else text
    try:
        seconds = float(number) * (factor or 1.0)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _LONGEST:
        raise RecipeError(
            f"{shown(text)} is not a duration, or one of more than ten years.", 'Write it like "90s", "9m" or "1.5h".'
        )
    return seconds
