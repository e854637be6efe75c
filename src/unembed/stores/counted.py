"""Columns that hold one number each of a vector: common words and a count ("e0", "e1", ... or "0", "1", ...).

Contents: `families`, `lacking` and, for tables with a schema, `counted_columns`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

_COUNTED = re.compile(r"(.*?)(\d+)(\D*)", re.S)


def families(names: Sequence[str]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Group names by what is before and after their count; each has (count, place among the names), ascending."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for place, name in enumerate(names):
        match = _COUNTED.fullmatch(name)
        if match is not None and len(match[2]) < 10:
            found.setdefault((match[1], match[3]), []).append((int(match[2]), place))
    return {words: sorted(members) for words, members in found.items()}


def lacking(counts: Sequence[int], least: int = 1) -> int | None:
    """Return a count that is missing between ascending ones, or before the first where that exceeds `least`."""
    gap = next((a + 1 for a, b in pairwise(counts) if b > a + 1), None)
    return counts[0] - 1 if gap is None and counts[0] > least else gap


def counted_columns(names: Sequence[str]) -> Iterator[tuple[str, list[str], int | None]]:
    """Yield (prefix, names in the order of their counts, a missing count or None) of names that end in a count."""
    for (prefix, after), members in families(names).items():
        counts = [count for count, _ in members]
        if not after and len(set(counts)) == len(counts) > 1:
            yield prefix, [names[place] for _, place in members], lacking(counts)
