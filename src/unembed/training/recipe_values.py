"""What a value of a recipe may be: numbers above 0, one of several words, a time.

Contents: `positive`, `not_negative`, `one_of`, `parse_duration`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unembed.errors import RecipeError


def positive(part: Any, names: Iterable[str]) -> None:
    """Refuse attributes of a table that are no finite numbers above 0."""
    for name in names:
        value = getattr(part, name)
        if not 0 < value < float("inf"):
            raise RecipeError(f"{name} is {value}.", "Use a number above 0.")


def not_negative(part: Any, names: Iterable[str]) -> None:
    """Refuse attributes of a table that are no finite numbers from 0 on."""
    for name in names:
        value = getattr(part, name)
        if not 0 <= value < float("inf"):
            raise RecipeError(f"{name} is {value}.", "Use 0 or a number above.")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among those allowed."""
    if value not in allowed:
        raise RecipeError(f"{name} is {value!r}.", f"Use one of {', '.join(allowed)}.")


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
    if not 0 < seconds < float("inf"):
        raise RecipeError(f"{text!r} is not a duration.", 'Write it like "90s", "9m" or "1.5h".')
    return seconds
