"""Refinement on the command line: `--queries`, what belongs to it, and its progress.

Contents: `query_options`, `QueryOptions`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from unembed.cli.options import encoder_option
from unembed.errors import InputError
from unembed.refinement.refine import DEFAULT, METHODS, Refine

if TYPE_CHECKING:
    from unembed.cli.console import Progress
    from unembed.inverter import Inverter, Recovery
    from unembed.refinement.session import Round
    from unembed.stores.quantised import Quantisation

F = TypeVar("F", bound=Callable[..., Any])
_OPTIONS = ("queries", "refinement", "seconds", "tolerance", "encoder")


def query_options(command: F) -> F:
    """Add the options of refinement; `QueryOptions` reads them."""
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
            type=click.Choice(list(METHODS)),
            default=None,
            help=f"How drafts are refined; default: {DEFAULT}.",
        ),
        click.option(
            "--seconds", type=click.FloatRange(0, min_open=True), help="Seconds of refinement per text, on average."
        ),
        click.option(
            "--tolerance",
            type=click.FloatRange(0, 2),
            metavar="X",
            help="A vector is matched at a cosine of 1 - X; default: the precision of the vectors.",
        ),
        encoder_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


class QueryOptions:
    """What the options of refinement ask for.

    Args:
        options: the values of `query_options`.

    Raises:
        InputError: an option that needs queries, without any.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.queries: int = options["queries"]
        self.method: str = options["refinement"] or DEFAULT
        self.seconds: float | None = options["seconds"]
        self.tolerance: float | None = options["tolerance"]
        self.encoder: str | None = options["encoder"]
        self._rows = self._matched = 0
        self._cosines = 0.0
        idle = [f"--{name}" for name in _OPTIONS[1:-1] if options[name] is not None]
        if idle and not self.queries:
            raise InputError(
                f"{idle[0]} concerns queries to the encoder, and none are allowed.",
                "Add --queries N, or leave it out.",
            )

    @staticmethod
    def take(options: dict[str, Any]) -> QueryOptions:
        """Take the options out of `options`."""
        return QueryOptions({name: options.pop(name) for name in _OPTIONS})

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

    def refine(self, vectors: Any, quantisation: Quantisation | None) -> Refine | None:
        """What is asked for a batch, None without queries.

        Args:
            vectors: (n, d) of the batch.
            quantisation: what the reader was given about the numbers.
        """
        if not self:
            return None
        from unembed.refinement.vector_precision import precision_of

        seconds = None if self.seconds is None else self.seconds * len(vectors)
        precision = precision_of(vectors, quantisation)
        return Refine(self.queries, self.method, seconds=seconds, tolerance=self.tolerance, vector_precision=precision)

    def show(self, step: Round | None, bar: Progress) -> None:
        """Say on the bar what a round has brought."""
        if step is not None:
            rows, matched = self._rows + len(step.nearest), self._matched + step.matched
            cosine = (self._cosines + step.cosine * len(step.nearest)) / rows
            bar.advance(0, f"Query {step.queries} of {self.queries}: cosine {cosine:.3f}, {matched} of {rows} matched")

    def count(self, found: Sequence[Recovery]) -> None:
        """Take finished rows into the mean that the bar shows."""
        self._rows += len(found)
        self._matched += sum(one.matched for one in found)
        self._cosines += sum(one.cosine or 0.0 for one in found)
