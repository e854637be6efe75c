"""Where recovered texts go: a table, JSON lines, a file at once, or a file that grows in chunks.

Contents: `COLUMNS`, `open_sink`, `trace_row`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unembed.cli.chunks import Chunks
    from unembed.inverter import Recovery
    from unembed.stores.protocol import VectorBatch

Sink = Callable[["VectorBatch", Sequence["Recovery"], Any, dict[str, list[Any]]], None]

COLUMNS: dict[str, Callable[[Recovery], Any]] = {
    "text": lambda recovery: recovery.text,
    "confidence": lambda recovery: recovery.confidence,
    "length": lambda recovery: recovery.length,
    "passes": lambda recovery: recovery.passes,
    "queries": lambda recovery: recovery.queries,
}
"""What is always written of a recovery, behind its id."""

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


@contextlib.contextmanager
def open_sink(
    out: str | None,
    as_json: bool,
    compare: bool,
    chunks: Chunks | None,
    chosen: dict[str, Callable[[Recovery], Any]],
) -> Iterator[Sink]:
    """Yield a function (batch, recoveries, originals, kept columns) that writes rows where they are wanted.

    Args:
        out: a file, or None for standard output.
        as_json: JSON lines instead of a table.
        compare: whether originals stand beside in the table.
        chunks: the file's chunks, or None to write it at once.
        chosen: the columns of a recovery.
    """
    from unembed.cli.console import show_json, stdout_console
    from unembed.cli.display import RecoveryTable
    from unembed.cli.output import open_writer

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

        def write_chunk(batch: VectorBatch, *parts: Any) -> None:
            chunks.write(rows(batch, *parts), batch.row(len(batch) - 1) + 1 - chunks.done)

        with chunks:
            yield write_chunk
            chunks.finish()
    elif out is not None:
        with open_writer(out) as write:
            yield lambda *parts: write(rows(*parts))
    elif as_json:

        def print_rows(*parts: Any) -> None:
            for row in rows(*parts):
                show_json(row, indent=None)

        yield print_rows
    else:
        table = RecoveryTable(stdout_console(), compare, "cosine" in chosen)
        yield lambda batch, found, originals, kept: table.add(batch.ids, found, originals)


def trace_row(name: Any, recovery: Recovery) -> dict[str, Any]:
    """Return the steps of one decode as plain values."""
    import dataclasses

    steps = recovery.trace.steps if recovery.trace is not None else ()
    rows = [dataclasses.asdict(step) for step in steps]
    for row in rows:
        del row["alternatives"], row["preview"]  # not asked for
    return {"id": name, "text": recovery.text, "steps": rows}
