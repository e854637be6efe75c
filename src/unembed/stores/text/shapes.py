"""Where vectors are in a JSON value, and the rows of it.

A path leads from the value to a vector: keys, places in a row that is an array, and steps to each element of a list
or each value of a dictionary, which make several rows of one value. As text: `body.data[].embedding`, `{}.vector`.
Contents: `EACH`, `VALUES`, `Found`, `find`, `written`, `rows`, `miscounted`, `below`,
`numbers`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any, NamedTuple

from unembed.stores.protocol import ID_NAMES
from unembed.stores.written import as_vector, is_number

_DEEP = 10
_MANY = 10  # entries that make a dictionary one of rows
_LOOK = 1000  # entries that are looked at
_LARGEST = 1 << 1023  # whole numbers from here on are beyond float64
_MAPS = ("embedding_dict",)  # dictionaries of vectors by id, however few (LlamaIndex)


class Each(enum.Enum):
    """A step to all parts of a value."""

    LIST = "[]"
    VALUES = "{}"


EACH, VALUES = Each.LIST, Each.VALUES
Path = tuple[str | int | Each, ...]


class Found(NamedTuple):
    """A vector: how many numbers, whether all are whole, and how it is written."""

    width: int
    whole: bool
    kind: str


def numbers(node: Any) -> Any:
    """Return the numbers of a vector, a list of numbers or what `as_vector` reads; None where it is none."""
    if isinstance(node, str):
        return as_vector(node)
    if not isinstance(node, list) or not node:
        return None
    types = set(map(type, node))
    if types == {str}:
        return [float(part) for part in node] if all(map(is_number, node)) else None
    if not types <= {int, float}:
        return None
    return node if int not in types or all(-_LARGEST < part < _LARGEST for part in node if type(part) is int) else None


def find(node: Any, depth: int = 0) -> dict[Path, Found]:
    """Find the vectors in a value, by their paths; of several rows the first that shows any."""
    if isinstance(node, str | list):
        vector = numbers(node)
        if vector is not None:
            whole = all(type(part) is int or part % 1 == 0 for part in vector)
            kind = "text" if isinstance(node, str) or isinstance(node[0], str) else "list"
            return {(): Found(len(vector), whole, kind)}
    if depth > _DEEP or not isinstance(node, list | dict):
        return {}
    if isinstance(node, dict):
        return _in_dictionary(node, depth)
    if any(_is_plain(part) for part in node[:_LOOK]):  # a row
        return {
            (i, *path): found for i, part in enumerate(node[:_LOOK]) for path, found in find(part, depth + 1).items()
        }
    for part in node[:_LOOK]:
        within = {(EACH, *path): found for path, found in find(part, depth + 1).items() if path[:1] != (EACH,)}
        if within:
            return within
    return {}


def _is_plain(part: Any) -> bool:
    """Return whether a part of a list is a number or a text that holds no vector."""
    return isinstance(part, int | float) or (isinstance(part, str) and as_vector(part) is None)


def _in_dictionary(node: dict[str, Any], depth: int) -> dict[Path, Found]:
    entries = list(islice(node.items(), _LOOK))
    inside = {key: find(part, depth + 1) for key, part in entries}
    if all(inside.values()):
        shapes = {tuple(paths) for paths in inside.values()}
        widths = {found.width for paths in inside.values() for found in paths.values()}
        if len(shapes) == len(widths) == 1 and (len(entries) >= _MANY or _counts(list(node)) or _knows_keys(entries)):
            first = next(iter(inside.values()))
            if not any(step is EACH for path in first for step in path):
                return {(VALUES, *path): found for path, found in first.items()}
    found: dict[Path, Found] = {}
    for key, paths in inside.items():
        part = node[key]
        if key in _MAPS and isinstance(part, dict) and all(path != () and len(path) == 1 for path in paths):
            paths = {(VALUES,): next(iter(paths.values()))} if paths else {}
        found |= {(key, *path): value for path, value in paths.items()}
    return found


def _counts(keys: list[str]) -> bool:
    """Return whether keys are 0, 1, 2, ..., as pandas writes columns."""
    return keys == [str(i) for i in range(len(keys))]


def _knows_keys(entries: list[tuple[str, Any]]) -> bool:
    """Return whether all entries hold their own keys as ids."""
    return all(
        isinstance(part, dict) and any(key == str(part.get(name)) for name in (*ID_NAMES, "id_"))
        for key, part in entries
    )


def written(path: Path) -> str:
    """Write a path as `--column` takes it; a vector that is a whole line is "vector"."""
    text = ""
    for step in path:
        text += step.value if isinstance(step, Each) else f".{step}"
    return text.lstrip(".") or "vector"


def rows(
    node: Any, path: Path, id_name: str | None, wanted: frozenset[str] | None
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield (what is at the path, the columns beside it) for each row of a value; None where nothing is there.

    Columns are the entries of all dictionaries on the way, those below a key with dotted names; entries that are as
    long as the list (or dictionary) of rows are shared out. An id from outside of several rows gets their numbers.

    Args:
        node: the value.
        path: leads to the vector.
        id_name: the column with the ids, if it is known.
        wanted: the columns that are used; None for all.
    """
    return _walk(node, path, {}, "", id_name, wanted)


def _walk(
    node: Any, path: Path, columns: dict[str, Any], prefix: str, id_name: str | None, wanted: frozenset[str] | None
) -> Iterator[tuple[Any, dict[str, Any]]]:
    if not path:
        yield node, columns
        return
    step, rest = path[0], path[1:]
    beside: dict[str, Any] = {}
    if isinstance(step, str):
        if not isinstance(node, dict) or step not in node:
            yield None, {**columns, **_named(node, prefix, step, id_name, wanted)}
            return
        beside, node = _named(node, prefix, step, id_name, wanted), node[step]
        if not rest or not isinstance(rest[0], Each):
            yield from _walk(node, rest, {**columns, **beside}, f"{prefix}{step}.", id_name, wanted)
            return
        step, rest = rest[0], rest[1:]
    elif isinstance(step, int):
        if not isinstance(node, list) or step >= len(node):
            yield None, columns
            return
        named = {str(i): part for i, part in enumerate(node) if i != step and (wanted is None or str(i) in wanted)}
        yield from _walk(node[step], rest, {**columns, **named}, f"{prefix}{step}.", id_name, wanted)
        return
    parts = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    around = {**columns, **beside}
    if isinstance(node, list) and not parts and step is EACH and rest and id_name not in around:
        return  # an empty page
    if (step is VALUES) != isinstance(node, dict) or not parts:
        yield None, around
        return
    if step is EACH and _are_numbered([part for _, part in parts]):
        parts = list(enumerate(sorted((part for _, part in parts), key=lambda part: part["index"])))
    shared = {name: part for name, part in around.items() if type(part) is type(node) and len(part) == len(node)}
    outside = {name: part for name, part in around.items() if name in columns or not isinstance(part, list | dict)}
    for index, (key, part) in enumerate(parts):
        own = dict(outside)
        if len(parts) > 1 and id_name in own:
            own[str(id_name)] = f"{own[str(id_name)]}[{index}]"
        for name, all_ in shared.items():
            own[name] = all_.get(key) if isinstance(all_, dict) else all_[index]
        if step is VALUES and (wanted is None or "key" in wanted):
            own["key"] = key
        yield from _walk(part, rest, own, "", id_name, wanted)


def _are_numbered(parts: list[Any]) -> bool:
    """Return whether parts hold their places among each other, as the answers of endpoints of OpenAI's kind do."""
    places: list[Any] = [part.get("index") if isinstance(part, dict) else None for part in parts]
    if any(type(place) is not int for place in places):
        return False
    return sorted(places) == list(range(min(places), min(places) + len(places)))


def miscounted(node: Any, path: Path, id_name: str | None) -> tuple[str, int, int] | None:
    """Return (key, ids, vectors) where a list of ids beside a list of vectors has another length; else None."""
    for step, following in pairwise(path):
        if not isinstance(step, str) or not isinstance(node, dict):
            return None
        below = node.get(step)
        if following is EACH and isinstance(below, list):
            for key, ids in node.items():
                known = key.lower() in ID_NAMES and (id_name is None or id_name.rpartition(".")[2] == key)
                if known and isinstance(ids, list) and len(ids) != len(below):
                    return key, len(ids), len(below)
        node = below
    return None


def _named(node: Any, prefix: str, step: str, id_name: str | None, wanted: frozenset[str] | None) -> dict[str, Any]:
    """Return the entries of a dictionary but one, with the names of columns; those below them where they are used."""
    if not isinstance(node, dict):
        return {}
    named = {f"{prefix}{key}": part for key, part in node.items() if key != step}
    used = {*(wanted or ()), *([id_name] if id_name is not None else ())}
    below = {}
    for name in used.difference(named):
        top = next((top for top in named if name.startswith(f"{top}.")), None)
        if top is not None:
            part = named[top]
            for key in name[len(top) + 1 :].split("."):
                part = part.get(key) if isinstance(part, dict) else None
            below[name] = part
    return {**(named if wanted is None else {name: named[name] for name in named if name in used}), **below}


def below(columns: dict[str, Any], depth: int = 0) -> list[str]:
    """Return the names of what is in dictionaries among some columns: `payload.text`."""
    found = []
    for name, part in columns.items():
        if isinstance(part, dict) and depth < _DEEP:
            inside = {f"{name}.{key}": value for key, value in islice(part.items(), _LOOK)}
            found += [*inside, *below(inside, depth + 1)]
    return found
