"""Shapes of JSON values that come from elsewhere: which types, within which bounds.

Contents: `SchemaError`, `Check`, and what makes checks: `whole`, `number`, `flag`, `text`, `one_of`, `listing`,
`table`, `mapping`, `anything`; `shown`, `nearest`;
`allow`, `bound`, for options that a user sets.

A check takes a value and its name, and returns the value or raises. Nothing is converted: true is not a number, 3.0 is
not a whole number, NaN and infinity are none at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from unembed.errors import InputError, UnembedError

Check = Callable[[Any, str], Any]
_SHOWN = 40
_DEEPEST = 40


class SchemaError(ValueError):
    """What is wrong with a value, as a clause: "layers is 20000 and not a whole number from 1 to 256"."""


def _say(value: Any) -> str:
    """A value in a few characters, whatever it is."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return ascii(value[:_SHOWN])
    if isinstance(value, int | float):
        return str(value) if isinstance(value, float) or value.bit_length() < 64 else "a number of many digits"
    return "a list" if isinstance(value, list | tuple) else "an object"


def _wrong(value: Any, name: str, expected: str) -> SchemaError:
    return SchemaError(f"{name} is {_say(value)} and not {expected}")


def whole(low: int, high: int) -> Check:
    """A whole number within bounds."""

    def check(value: Any, name: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _wrong(value, name, f"a whole number from {low} to {high}" if high < 2**62 else "a whole number")
        return value

    return check


def number(low: float = -1e300, high: float = 1e300) -> Check:
    """A finite number within bounds."""

    def check(value: Any, name: str) -> Any:
        known = isinstance(value, int | float) and not isinstance(value, bool)
        if not known or not (low <= value <= high and math.isfinite(value)):
            raise _wrong(value, name, f"a number from {low:g} to {high:g}" if high < 1e300 else "a finite number")
        return value

    return check


def flag(value: Any, name: str) -> Any:
    """True or false."""
    if not isinstance(value, bool):
        raise _wrong(value, name, "true or false")
    return value


def text(most: int, lines: bool = False) -> Check:
    """A string of at most `most` characters, all printable, or line breaks and tabs too."""

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, str) or len(value) > most:
            raise _wrong(value, name, f"a text of at most {most} characters")
        if not (value.translate({10: " ", 13: " ", 9: " "}) if lines else value).isprintable():
            raise SchemaError(f"{name} holds characters that cannot be printed")
        return value

    return check


def one_of(allowed: Collection[str]) -> Check:
    """One of a few strings."""

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise _wrong(value, name, f"one of {', '.join(allowed)}")
        return value

    return check


def listing(of: Check, least: int, most: int) -> Check:
    """A list of values of one kind, with bounds on its length."""

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, list | tuple):
            raise _wrong(value, name, "a list")
        if not least <= len(value) <= most:
            expected = str(least) if least == most else f"{least} to {most}"
            raise SchemaError(f"{name} has {len(value)} entries and not {expected}")
        for place, one in enumerate(value):
            of(one, f"{name}[{place}]")
        return value

    return check


def table(keys: Mapping[str, Check], optional: Collection[str] = ()) -> Check:
    """An object with exactly these keys, of which some may be absent."""

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, name, "an object")
        missing = [key for key in keys if key not in value and key not in optional]
        if missing:
            raise SchemaError(f"{name} lacks {missing[0]}")
        for key, one in value.items():
            if key not in keys:
                raise SchemaError(f"{name} has a key {_say(key)}, which this program does not know")
            keys[key](one, f"{name}.{key}")
        return value

    return check


def mapping(of: Check, most: int, key: Check | None = None) -> Check:
    """An object of at most `most` keys, with values of one kind."""
    named = key or text(1000)

    def check(value: Any, name: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(value, name, "an object")
        if len(value) > most:
            raise SchemaError(f"{name} has {len(value)} keys and not at most {most}")
        for one, inner in value.items():
            named(one, f"a key of {name}")
            of(inner, f"{name}.{one}")
        return value

    return check


def shown(value: Any) -> str:
    """A value for a message: cut short, in printable ASCII."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a number of more digits than Python writes, lists within lists
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."


def allow(name: str, value: Any, allowed: Collection[str], error: type[UnembedError] = InputError) -> None:
    """Refuse an option that is not one of a few words.

    Raises:
        UnembedError: of the type `error`, naming the option and the words.
    """
    if value not in allowed:
        raise error(f"{name} is {shown(value)}.", f"Use one of: {', '.join(allowed)}.")


def bound(
    name: str, value: Any, low: float, high: float, error: type[UnembedError] = InputError, whole: bool = False
) -> None:
    """Refuse an option that is not a number, or not a whole one, within bounds; NaN is within none.

    Raises:
        UnembedError: of the type `error`, naming the option and its bounds.
    """
    known = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if known and low <= value <= high:
        return
    most = "below 1" if high == math.nextafter(1, 0) else f"to {high if isinstance(high, int) else format(high, 'g')}"
    kind = "whole number" if whole else "number"
    raise error(f"{name} is {shown(value)}.", f"Use a {kind} from {low:g} {most}.")


def nearest(name: object, known: Collection[str], otherwise: str) -> str:
    """What to do about a name that is not known: the nearest of those that are, or else what is said `otherwise`."""
    import difflib  # most runs need no hint

    near = difflib.get_close_matches(str(name)[:100], known, 1)
    return f"Did you mean {near[0]}?" if near else otherwise


def anything(value: Any, name: str) -> Any:
    """Any value that is not nested too deeply to be shown: free notes that decide nothing."""
    layer = [value]
    for _ in range(_DEEPEST):
        layer = [
            inner
            for one in layer
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not layer:
            return value
    raise SchemaError(f"{name} is nested too deeply")
