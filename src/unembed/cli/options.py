"""Options that several commands share, as decorators, and what is known of the texts beforehand.

Contents: `output_options`, `makes_folder`, `text_options`, `model_options`, `encoder_option`, `precision_option`,
`decoding_options`, `given`; `known_options` (`--prefix`, `--known`, `--require`, `--ban`, `--length`) and `Known`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unembed.decoding.config import STRATEGIES
from unembed.errors import InputError
from unembed.plugins import plugin_names

if TYPE_CHECKING:
    from unembed.stores.protocol import VectorBatch

F = TypeVar("F", bound=Callable[..., Any])


def output_options(command: F) -> F:
    """Add --json and --quiet."""
    command = click.option("--quiet", "-q", is_flag=True, help="Show no progress and no notes, only errors.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")(command)


def makes_folder(option: str) -> Callable[[F], F]:
    """Let a command leave no empty folder behind where it refuses; `option` names what is written, folder or file."""

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def run(**options: Any) -> Any:
            from unembed.files import unless_refused

            with unless_refused(options[option]):
                return command(**options)

        return run  # type: ignore[return-value]

    return decorate


def text_options(command: F) -> F:
    """Add --column, --source-column and --exclude-source, for `data.sources.read_texts`."""
    options = [
        click.option("--column", metavar="NAME", help="Column of the texts; default: text, or the last of a .tsv."),
        click.option(
            "--source-column", metavar="NAME", help="Column of the sources; default: source, or the file's name."
        ),
        click.option(
            "--exclude-source", multiple=True, metavar="NAME", help="Leave out the texts of a source; repeatable."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def as_column(name: str | None) -> str | int | None:
    """Read the value of a column option: a whole number is an index."""
    return int(name) if name is not None and name.lstrip("-").isdigit() else name


def model_options(command: F) -> F:
    """Add --model and --device."""
    command = click.option(
        "--device", default=None, metavar="NAME", help="Device: cpu, cuda, cuda:1 or mps; default: the fastest."
    )(command)
    return click.option(
        "--model", "-m", default="default", show_default=True, metavar="PATH", help="Checkpoint folder or shipped name."
    )(command)


def encoder_option(command: F) -> F:
    """Add --encoder: where the user has the model's encoder, which a checkpoint cannot say."""
    return click.option(
        "--encoder",
        metavar="NAME",
        help="Where the model's encoder is: an endpoint, a folder or a hub name; or set UNEMBED_ENCODER.",
    )(command)


def precision_option(command: F) -> F:
    """Add --precision."""
    return click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16", "auto"]),
        default="fp32",
        show_default=True,
        help="Precision of the network's products; auto takes bf16 where the machine is fast at it.",
    )(command)


class _Strategy(click.Choice[str]):
    """A built-in strategy, or one of a plug-in, which is only looked for where it is named."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name."""
        known = value not in STRATEGIES and value in plugin_names("strategy")
        return value if known else super().convert(value, param, ctx)


def decoding_options(command: F) -> F:
    """Add the options of `DecodeConfig` and the batch size; an option that is not given leaves the config's default."""
    options = [
        click.option(
            "--strategy",
            type=_Strategy(list(STRATEGIES)),
            default=None,
            help="How a draft is decoded; prior takes no pass of the network.",
        ),
        click.option("--passes", type=click.IntRange(1), default=None, help="Most passes of the network."),
        click.option(
            "--lengths", type=click.IntRange(1), default=None, help="Number of likely lengths that are decoded."
        ),
        click.option("--samples", type=click.IntRange(1), default=None, help="Drafts per length; needs a temperature."),
        click.option("--temperature", type=click.FloatRange(0), default=None, help="0 takes the likeliest tokens."),
        click.option("--beam", type=click.IntRange(1), default=None, help="Hypotheses kept by left-to-right."),
        click.option(
            "--guidance",
            type=click.FloatRange(0),
            default=None,
            help="Weight of the vector; for models trained with vector_drop.",
        ),
        click.option(
            "--batch-size", type=click.IntRange(1), default=None, help="Vectors per batch; default: 64, prior 4096."
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def given(**values: Any) -> dict[str, Any]:
    """Keep the options that were given, so that the library's defaults hold for the others."""
    return {name: value for name, value in values.items() if value is not None}


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
