"""What is known of the texts beforehand, as options: `--prefix`, `--known`, `--require`, `--ban`, `--length`.

Contents: `known_options`, `Known`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.stores.protocol import VectorBatch

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = ("prefix", "known", "require", "ban", "length", "prefix_column", "known_column", "require_column")
_ROW = re.compile(r"\(row (\d+)\)\.$")


def known_options(command: F) -> F:
    """Add the options that say what is known of the texts; `Known` reads them."""
    options = [
        click.option("--prefix", metavar="TEXT", help="All texts begin with this."),
        click.option("--known", multiple=True, metavar="N=WORD", help="A word at token N, from 0; may be repeated."),
        click.option("--require", multiple=True, metavar="WORD", help="Word or phrase in all texts; may be repeated."),
        click.option("--ban", multiple=True, metavar="WORD", help="Word or phrase in no text; may be repeated."),
        click.option("--length", metavar="MIN-MAX", help="Tokens of a text: a range such as 5-12, or one number."),
        click.option("--prefix-column", metavar="NAME", help="Column with the beginning of each text."),
        click.option("--known-column", metavar="NAME", help='Column with known words, such as "3=doctor; 7=york".'),
        click.option("--require-column", metavar="NAME", help='Column with required words, such as "york; doctor".'),
    ]
    for option in reversed(options):
        command = option(command)
    return command


class Known:
    """Constraints of each batch, from options and columns.

    Args:
        options: the values of `known_options`.

    Raises:
        InputError: an option that cannot be read.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.prefix: str | None = options["prefix"]
        self.known = _words_at(options["known"], "--known")
        self.length = _length(options["length"])
        if self.prefix is not None and options["prefix_column"] is not None:
            raise InputError("Both --prefix and --prefix-column are given.", "Use one of them.")

    @staticmethod
    def take(options: dict[str, Any]) -> Known:
        """Take the options out of `options`."""
        return Known({name: options.pop(name) for name in _OPTIONS})

    def __bool__(self) -> bool:
        """Whether anything is known."""
        return any(self.options.values())

    def settings(self) -> dict[str, Any]:
        """What decides the rows, as JSON values; empty where nothing is known."""
        return {n: list(v) if isinstance(v, tuple) else v for n, v in self.options.items() if v}

    def columns(self) -> list[str]:
        """The columns that constraints are read from."""
        return [value for name, value in self.options.items() if name.endswith("_column") and value is not None]

    def of(self, batch: VectorBatch, column: Callable[[VectorBatch, str], list[Any]]) -> dict[str, Any]:
        """Constraints of a batch, as options of `Inverter.invert`.

        Args:
            batch: its rows.
            column: reads a column of it.

        Raises:
            InputError: no such column, or a cell that cannot be read.
        """
        o, rows = self.options, range(len(batch))
        out: dict[str, Any] = {"prefix": self.prefix, "length": self.length}
        if o["prefix_column"] is not None:
            out["prefix"] = [_text(cell) for cell in column(batch, o["prefix_column"])]
        out["known"] = self.known or None
        if o["known_column"] is not None:
            cells = [_text(cell) or "" for cell in column(batch, o["known_column"])]
            found = [_words_at(cells[i].split(";"), f"Row {batch.row(i)} of {o['known_column']}") for i in rows]
            out["known"] = [{**self.known, **words} for words in found]
        out["required"] = list(o["require"]) or None
        if o["require_column"] is not None:
            cells = [_text(cell) or "" for cell in column(batch, o["require_column"])]
            out["required"] = [
                [*o["require"], *(word.strip() for word in cell.split(";") if word.strip())] for cell in cells
            ]
        out["banned"] = list(o["ban"]) or None
        return {name: value for name, value in out.items() if value is not None}

    def located(self, error: InputError, batch: VectorBatch) -> InputError:
        """The same error with the row's number in the file instead of that in the batch."""
        return type(error)(_ROW.sub(lambda m: f"(row {batch.row(int(m[1]))}).", error.what), error.do)


def _text(cell: Any) -> str | None:
    """A cell as text, None where it is empty."""
    text = "" if cell is None else str(cell).strip()
    return text or None


def _words_at(parts: Any, where: str) -> dict[int, str]:
    """Read "3=doctor" and the like."""
    out: dict[int, str] = {}
    for part in parts:
        if not part.strip():
            continue
        position, sign, word = part.partition("=")
        if not sign or not position.strip().isdigit() or not word.strip():
            raise InputError(
                f"{where} holds {part.strip()!r}, which is not a position and a word.",
                'Write the number of the token, from 0, and the word: "3=doctor".',
            )
        if out.setdefault(int(position), word.strip()) != word.strip():
            raise InputError(f"{where} gives two words at position {int(position)}.", "Keep one of them.")
    return out


def _length(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text)
    if found is None:
        raise InputError(f"--length is {text!r}, which is not a range.", "Write a range such as 5-12, or one number.")
    return int(found[1]), int(found[2] or found[1])
