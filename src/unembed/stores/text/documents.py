"""Values of JSON text: one per line, the elements of one array, or values one after the other.

Contents: `Bad`, `json_values`. No more than one value is held at a time, and none that would take too much memory.
"""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from unembed.errors import InputError
from unembed.stores.inputs import MAX_LINE, Input, open_text
from unembed.stores.reading import RESTORE

_HEAD = 1 << 16  # characters by which the form is judged, and which are read at a time
_LIGHT = 1 << 22  # characters whose values cannot take much memory
_MEMORY = 1 << 30  # bytes of a value
_ONE = "Write one object per line."
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Bad:
    """A line that holds no value: what is wrong, as it follows "Line 7 of a.jsonl", and what to do."""

    what: str
    do: str


def json_values(source: Input) -> Generator[tuple[int, Any, int]]:
    """Yield (line from 1, value, characters) for each value that is an object or a list; `Bad` for other lines.

    Raises:
        InputError: an array that is damaged or cut off, a line of more than `MAX_LINE` characters.
    """
    try:
        with open_text(source) as stream:
            head = stream.read(_HEAD)
            yield from _elements(head, stream, source.name) if _is_document(head) else _lines(head, stream, source.name)
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{source.name} cannot be read as UTF-8 text.", "Convert it to UTF-8 JSON lines.") from error


def _is_document(head: str) -> bool:
    """Return whether values span several lines, or an array holds the rows."""
    text = head.lstrip()
    if text[:1] == "[" and text[1:].lstrip()[:1] in ("[", "{", "]"):
        return True
    if text[:1] not in ("[", "{"):
        return False
    first, _, rest = text.partition("\n")
    first, second = first.rstrip(), rest.lstrip().partition("\n")[0]
    if first[-1:] not in ("[", "{", ",", ":") or _parsed(first) is not None:
        return False
    return not isinstance(_parsed(second), dict | list) or len(first) == 1


def _parsed(text: str) -> Any:
    """Return the value of some text, None where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _lines(head: str, stream: io.TextIOWrapper, source: str) -> Generator[tuple[int, Any, int]]:
    """Yield the value of each line that is not blank."""
    for number, text in enumerate(_split(head, stream), 1):
        if len(text) >= MAX_LINE and not text.endswith("\n"):
            raise InputError(
                f"Line {number} of {source} is longer than {MAX_LINE} characters.", "Write one vector per line."
            )
        if not text.strip():
            continue
        if _too_heavy(text):
            yield number, Bad("holds more values than memory allows", _ONE), len(text)
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield number, Bad(f"is not JSON ({_reason(error)})", "Repair or remove that line."), len(text)
            continue
        good = isinstance(value, list | dict)
        yield number, value if good else Bad("is neither an object nor a list", _ONE), len(text)


def _split(head: str, stream: io.TextIOWrapper) -> Iterator[str]:
    """Yield the lines of a text whose beginning was read already."""
    begin = 0
    while (end := head.find("\n", begin) + 1) > 0:
        yield head[begin:end]
        begin = end
    rest = head[begin:] + stream.readline(MAX_LINE)
    while rest:
        yield rest
        rest = stream.readline(MAX_LINE)


def _elements(head: str, stream: io.TextIOWrapper, source: str) -> Generator[tuple[int, Any, int]]:
    """Yield the elements of arrays, and the values outside them."""
    text = _Text(head, stream, source)
    inside, expected = False, False  # in an array; after a comma or a bracket that opens one
    vectors = before = 0  # lists in this array, and in those before it
    while mark := text.next():
        if mark == "]" and inside and not expected:
            inside = False
            text.at += 1
        elif mark == "," and inside and not expected:
            expected = True
            text.at += 1
        elif mark == "[" and not inside and text.opens():
            inside = expected = True
            before, vectors = max(before, vectors), 0
            text.at += 1
            if text.next() == "]":
                expected = False
        elif inside and not expected:
            raise InputError(f"Line {text.line} of {source} is not JSON (no comma before a value).", RESTORE)
        else:
            line, begin = text.line, text.taken
            value = text.value()
            vectors += inside and isinstance(value, list)
            if (before and vectors and before + vectors > 2) or (inside and _are_vectors(value)):
                raise InputError(
                    f"{source} holds several lists of vectors, as one vector per token.",
                    "Write one vector per line; if they are of tokens, embed the texts with pooling.",
                )
            good = isinstance(value, list | dict | str)
            yield line, value if good else Bad("is neither an object nor a list", _ONE), text.taken - begin
            expected = False
    if inside:
        raise InputError(f"{source} ends within its array: it was cut off.", RESTORE)


def _are_vectors(value: Any) -> bool:
    """Return whether a value is a list of several lists."""
    return isinstance(value, list) and len(value) > 1 and all(isinstance(part, list) for part in value)


class _Text:
    """Text that is decoded value by value.

    Attributes:
        at: the place in what is held.
        line: the line there, from 1.
        taken: characters of the values so far.
    """

    def __init__(self, held: str, stream: io.TextIOWrapper, source: str) -> None:
        self._held, self._stream, self._source = held, stream, source
        self._ended = False
        self.at, self.line, self.taken = 0, 1, 0

    def _more(self) -> bool:
        """Read on, at least as much as is held; say whether there was more."""
        if not self._ended:
            new = self._stream.read(max(_HEAD, len(self._held) - self.at))
            self._held = self._held[self.at :] + new
            self.at = 0
            self._ended = not new
        return not self._ended

    def next(self) -> str:
        """Go to the next character that is not white space and return it; "" at the end."""
        while True:
            while self.at < len(self._held):
                mark = self._held[self.at]
                if not mark.isspace():
                    return mark
                self.line += mark == "\n"
                self.at += 1
            if not self._more():
                return ""

    def opens(self) -> bool:
        """Return whether a bracket begins an array of rows: arrays, objects or text, or nothing."""
        while not (rest := self._held[self.at + 1 : self.at + 100].lstrip()) and self._more():
            pass
        return rest[:1] in ("[", "{", '"', "]", "n")

    def value(self) -> Any:
        """Decode the value that begins here and move past it."""
        while True:
            if _too_heavy(self._held[self.at :] if len(self._held) - self.at > _LIGHT else ""):
                raise InputError(
                    f"The value from line {self.line} of {self._source} on holds more than memory allows.", _ONE
                )
            try:
                value, end = _DECODER.raw_decode(self._held, self.at)
            except (ValueError, RecursionError) as error:
                if isinstance(error, ValueError) and len(self._held) - self.at < MAX_LINE and self._more():
                    continue
                line = self.line + self._held.count("\n", self.at, getattr(error, "pos", self.at))
                raise InputError(f"Line {line} of {self._source} is not JSON ({_reason(error)}).", RESTORE) from error
            if end == len(self._held) and not isinstance(value, list | dict | str) and self._more():
                continue  # the number may continue
            self.line += self._held.count("\n", self.at, end)
            self.taken += end - self.at
            self.at = end
            return value


def _reason(error: BaseException) -> str:
    """Say what is wrong with JSON."""
    return str(getattr(error, "msg", "a number or a nesting is too large"))


def _too_heavy(text: str) -> bool:
    """Return whether the values of some JSON may take more memory than they may, by the marks in it."""
    if len(text) <= _LIGHT:
        return False
    marks = 64 * (text.count("[") + text.count("{")) + 40 * text.count(",") + 150 * text.count(":")
    return len(text) + marks > _MEMORY
