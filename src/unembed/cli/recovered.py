"""Where recovered texts go: a table, JSON lines, or a file that grows in chunks; and whether the vectors fitted.

Contents: `COLUMNS`, `RESERVED`, `kept_names`, `open_sink`, `trace_row`; `Fitting`, which says at the end whether the
vectors of a file look like those that the model learnt from.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from unembed.cli.console import note
from unembed.errors import InputError

if TYPE_CHECKING:
    from unembed.cli.chunks import Chunks
    from unembed.inverter import Recovery
    from unembed.stores.protocol import VectorBatch

Sink = Callable[..., None]
"""(batch, recoveries, originals, kept columns, input rows as `Chunks.write` takes them)."""

COLUMNS: dict[str, Callable[[Recovery], Any]] = {
    "text": lambda recovery: recovery.text,
    "confidence": lambda recovery: recovery.confidence,
    "likelihood": lambda recovery: recovery.likelihood,
    "fit": lambda recovery: recovery.fit,
    "misfit": lambda recovery: recovery.misfit,
    "length": lambda recovery: recovery.length,
    "passes": lambda recovery: recovery.passes,
    "queries": lambda recovery: recovery.queries,
}
"""What is always written of a recovered row, after its id."""

TOKENS: dict[str, Callable[[Recovery], Any]] = {
    "p_exact": lambda recovery: recovery.p_exact,
    "tokens": lambda recovery: list(recovery.tokens),
    "token_confidence": lambda recovery: list(recovery.token_confidence),
}
"""What `--tokens` adds."""

ALTERNATIVES: dict[str, Callable[[Recovery], Any]] = {
    "alternatives": lambda recovery: [part.text for part in recovery.alternatives],
}
"""What `--alternatives` adds."""


CONSTRAINTS: dict[str, Callable[[Recovery], Any]] = {
    "given": lambda recovery: list(recovery.given),
    "forced": lambda recovery: list(recovery.forced),
}
"""What is added where something is known beforehand: which tokens were known, and which were required."""


REFINED: dict[str, Callable[[Recovery], Any]] = {"cosine": lambda recovery: recovery.cosine}
"""What is added where the encoder was asked."""


def columns(
    tokens: bool, alternatives: bool, constrained: bool, refined: bool = False
) -> dict[str, Callable[[Recovery], Any]]:
    """Choose the columns of a recovery."""
    asked = ((refined, REFINED), (tokens, TOKENS), (alternatives, ALTERNATIVES), (constrained, CONSTRAINTS))
    return {**COLUMNS, **{name: value for wanted, part in asked if wanted for name, value in part.items()}}


RESERVED = frozenset(("id", "original", "fit", "likelihood", *COLUMNS, *TOKENS, *ALTERNATIVES, *CONSTRAINTS, *REFINED))
"""Names of the output's own columns, those that other options add included."""


def kept_names(keep: Sequence[str], quiet: bool = False, own: Collection[str] = RESERVED) -> dict[str, str]:
    """What the columns of --keep are called in the output, by their name in the input.

    A name that the output has itself, in capitals or not, becomes kept_NAME, whether or not this run writes that
    column: no original ever appears where a recovered text is expected.

    Args:
        keep: the values of --keep.
        quiet: whether new names go without a note.
        own: names of the output's own columns.

    Raises:
        InputError: two columns would have one name.
    """
    names = {name: f"kept_{name}" if name.casefold() in own else name for name in keep}
    twice = next((new for new in names.values() if list(names.values()).count(new) > 1), None)
    if twice is not None:
        raise InputError(
            f"Two columns of --keep would be called {twice!r}: a kept column whose name the output uses "
            "itself is prefixed with kept_.",
            "Rename one of them in the input.",
        )
    for name, new in names.items():
        if name != new:
            note(f"The column {name!r} of the input is {new!r} in the output.", quiet)
    return names


@contextlib.contextmanager
def open_sink(
    as_json: bool,
    compare: bool,
    chunks: Chunks | None,
    chosen: dict[str, Callable[[Recovery], Any]],
) -> Iterator[Sink]:
    """Yield a function (batch, recoveries, originals, kept columns, input rows) that writes rows where they are wanted.

    Args:
        as_json: JSON lines instead of a table.
        compare: whether the table has a column of originals.
        chunks: of the file; None for standard output.
        chosen: the columns of a recovery.
    """
    from unembed.cli.console import show_json, stdout_console
    from unembed.cli.display import RecoveryTable

    def rows(batch: VectorBatch, found: Sequence[Recovery], originals: Any, kept: dict[str, list[Any]]) -> list[Any]:
        return [
            {
                "id": name,
                **{key: value(recovery) for key, value in chosen.items()},
                **({"original": originals[i]} if originals is not None else {}),
                **{key: values[i] for key, values in kept.items()},
            }
            for i, (name, recovery) in enumerate(zip(batch.ids, found, strict=True))
        ]

    if chunks is not None:

        def write_chunk(batch: VectorBatch, found: Any, originals: Any, kept: Any, seen: Sequence[bytes] = ()) -> None:
            covered = batch.row(len(batch) - 1) + 1 - chunks.done
            chunks.write(rows(batch, found, originals, kept), covered, seen)

        with chunks:
            yield write_chunk
            chunks.finish()
    elif as_json:

        def print_rows(batch: VectorBatch, found: Any, originals: Any, kept: Any, seen: Sequence[bytes] = ()) -> None:
            for row in rows(batch, found, originals, kept):
                show_json(row, indent=None)

        yield print_rows
    else:
        table = RecoveryTable(stdout_console(), compare, "cosine" in chosen)

        def show(batch: VectorBatch, found: Any, originals: Any, kept: Any, seen: Sequence[bytes] = ()) -> None:
            table.add(batch.ids, found, originals)

        yield show


def trace_row(name: Any, recovery: Recovery) -> dict[str, Any]:
    """Return the steps of one decode as plain values."""
    import dataclasses

    steps = recovery.trace.steps if recovery.trace is not None else ()
    rows = [dataclasses.asdict(step) for step in steps]
    for row in rows:
        del row["alternatives"], row["preview"]  # not asked for
    return {"id": name, "text": recovery.text, "steps": rows}


WORDS = {
    "vector": "like vectors of another encoder, or damaged ones",
    "long": "like texts longer than those that the model reads",
    "language": "like texts of a language that the model does not know",
}
_CHANCE = 0.05  # so rarely as many misfits would turn up among texts that fit
_LOW = 0.1  # a median below it, where 0.5 is usual, says something about the whole file
_FEWEST = 5  # rows that have a median


class Fitting:
    """Gathers the fit of the rows of a file, in memory that does not grow with them."""

    def __init__(self) -> None:
        self._thousandths: Counter[int] = Counter()
        self._misfits: Counter[str] = Counter()

    def add(self, found: Sequence[Recovery]) -> None:
        """Look at some rows."""
        self._thousandths.update(int(1000 * one.fit) for one in found if one.fit is not None)
        self._misfits.update(one.misfit for one in found if one.misfit is not None)

    def warning(self) -> str:
        """What is to be said of the file; empty where its rows look as they should."""
        from unembed.priors.fit_score import LIMIT

        rows, count = self._thousandths.total(), self._misfits.total()
        said = []
        if count and _poisson_tail(count, LIMIT * rows) < _CHANCE:
            kinds = "; ".join(f"{number:,} look {WORDS[name]}" for name, number in self._misfits.most_common())
            said.append(
                f"{count:,} of {rows:,} rows do not fit the model ({LIMIT:.0%} is usual): {kinds}. "
                "Their texts are guesses, whatever their likelihood; the column misfit names them."
            )
        median = self._median(rows) if rows >= _FEWEST else 1.0
        if median < _LOW:
            said.append(
                f"The fit of the whole file is {median:.2g} (median, 0.5 is usual): expect less of it than the "
                "confidence says, and check the encoder, its pooling and the length of the texts."
            )
        return " ".join(said)

    def _median(self, rows: int) -> float:
        below = 0
        for place in sorted(self._thousandths):
            below += self._thousandths[place]
            if 2 * below > rows:
                break
        return place / 1000

    def show(self, quiet: bool) -> None:
        """Print the warning, if there is one."""
        from unembed.cli.console import note

        if said := self.warning():
            note(f"Warning: {said}", quiet)


def _poisson_tail(count: int, mean: float) -> float:
    """P(X >= count) of a Poisson variable."""
    below = sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count)) if mean > 0 else 1.0
    return max(0.0, 1.0 - below)
