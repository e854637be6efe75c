"""Refinement on the command line: `--queries` and what belongs to it, its progress, and what an interruption leaves.

Contents: `refinement_options`, `Refining`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unembed.cli.options import encoder_option
from unembed.errors import InputError
from unembed.refinement.methods import DEFAULT, REFINEMENTS

if TYPE_CHECKING:
    from unembed.cli.console import Progress
    from unembed.inverter import Inverter, Recovery
    from unembed.stores.quantised import Quantisation

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = ("queries", "refinement", "seconds", "tolerance", "encoder")


def refinement_options(command: F) -> F:
    """Add the options of refinement; `Refining` reads them."""
    options = [
        click.option(
            "--queries",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="Texts sent to the encoder for each vector, to refine its drafts.",
        ),
        click.option(
            "--refinement",
            type=click.Choice(list(REFINEMENTS)),
            default=None,
            help=f"How drafts are refined; default: {DEFAULT}.",
        ),
        click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Of refinement per text, on average."),
        click.option(
            "--tolerance",
            type=click.FloatRange(0, 2),
            metavar="X",
            help="A vector is met at a cosine of 1 - X; default: the precision of the vectors.",
        ),
        encoder_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


class Refining:
    """What the options of refinement ask for.

    Args:
        options: the values of `refinement_options`.

    Raises:
        InputError: an option that needs queries, without any.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.queries: int = options["queries"]
        self.method: str = options["refinement"] or DEFAULT
        self.seconds: float | None = options["seconds"]
        self.tolerance: float | None = options["tolerance"]
        self.encoder: str | None = options["encoder"]
        self._rows = self._met = 0
        self._cosines = 0.0
        idle = [f"--{name}" for name in _OPTIONS[1:-1] if options[name] is not None]
        if idle and not self.queries:
            raise InputError(
                f"{idle[0]} is about queries to the encoder, and none are allowed.",
                "Add --queries N, or leave it out.",
            )

    @staticmethod
    def take(options: dict[str, Any]) -> Refining:
        """Take the options out of `options`."""
        return Refining({name: options.pop(name) for name in _OPTIONS})

    def __bool__(self) -> bool:
        """Whether any query may be made."""
        return self.queries > 0

    def settings(self) -> dict[str, Any]:
        """What decides the rows, as JSON values; empty without queries."""
        if not self:
            return {}
        names = ("queries", "method", "seconds", "tolerance", "encoder")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def refuse(self, trace: str | None, animate: str | None) -> None:
        """Refuse what shows the steps of a decode, which are not those of a refinement.

        Raises:
            InputError: one of them is given, with queries.
        """
        for name, value in (("--trace", trace), ("--animate", animate)):
            if value is not None and self:
                raise InputError(
                    f"{name} shows how a draft is decoded, and --queries starts from finished drafts.",
                    "Give one of the two.",
                )

    def prepare(self, inverter: Inverter) -> None:
        """Load the encoder that is asked or named, and check it, before any vector is read.

        Raises:
            EncoderError: it cannot be loaded.
            EncoderMismatchError: it is not the model's.
        """
        if self.encoder is not None:
            inverter.use_encoder(self.encoder)
        elif self:
            _ = inverter.encoder

    def options(self, vectors: Any, quantisation: Quantisation | None, bar: Progress) -> dict[str, Any]:
        """Options of `Inverter.invert` for a batch.

        Args:
            vectors: (n, d) of the batch.
            quantisation: what the reader was given about the numbers.
            bar: shows how far the batch is.
        """
        if not self:
            return {}
        from unembed.refinement.budget import Budget
        from unembed.refinement.vector_precision import rounding_of

        count = len(vectors)

        def report(queries: int, cosine: float, met: float) -> None:
            rows = self._rows + count
            mean = (self._cosines + cosine * count) / rows
            bar.advance(0, f"Query {queries} of {self.queries}: cosine {mean:.3f}, {self._met + met:.0f} of {rows} met")

        return {
            "budget": Budget(self.queries, seconds=None if self.seconds is None else self.seconds * count),
            "refinement": self.method,
            "tolerance": self.tolerance,
            "rounding": rounding_of(vectors, quantisation),
            "report": report,
        }

    def count(self, found: Sequence[Recovery]) -> None:
        """Take finished rows into the mean that the bar shows."""
        self._rows += len(found)
        self._met += sum(one.met for one in found)
        self._cosines += sum(one.cosine or 0.0 for one in found)
