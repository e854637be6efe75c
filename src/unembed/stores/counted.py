"""Columns that hold one number each of a vector: a common prefix and a count ("e0", "e1", ... or "0", "1", ...)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_COUNTED = re.compile(r"(.*?)(\d{1,7})", re.S)


def counted(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the columns that count from 0 or 1 without a gap, in the order of their counts, by their prefix."""
    return {
        prefix: [places[count] for count in sorted(places)]
        for prefix, places in _groups(names).items()
        if _missing(places) is None
    }


def gaps(names: Iterable[str]) -> dict[str, str]:
    """Return the first column that lacks in each group of at least ten that would count from 0 or 1, by its prefix."""
    found = {}
    for prefix, places in _groups(names).items():
        lacks = _missing(places)
        if lacks is not None and len(places) >= 10 and 2 * len(places) > max(places):
            found[prefix] = f"{prefix}{lacks}"
    return found


def _groups(names: Iterable[str]) -> dict[str, dict[int, str]]:
    """Return the names by prefix and count; a prefix with the same count twice ("e1", "e01") is none."""
    groups: dict[str, dict[int, str]] = {}
    doubled = set()
    for name in names:
        match = _COUNTED.fullmatch(name)
        if match is not None:
            places = groups.setdefault(match[1], {})
            doubled |= {match[1]} if int(match[2]) in places else set()
            places[int(match[2])] = name
    return {prefix: places for prefix, places in groups.items() if len(places) > 1 and prefix not in doubled}


def _missing(places: dict[int, str]) -> int | None:
    """Return the first count that is missing between 0 or 1 and the last, or None."""
    first = min(min(places), 1)
    return next((count for count in range(first, first + len(places)) if count not in places), None)
