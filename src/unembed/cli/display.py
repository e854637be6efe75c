"""Recovered texts on a terminal: a table that grows batch by batch, and the scores under it.

Words that both texts have are green; on a pipe the table is plain text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unembed.cli.console import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WORD = re.compile(r"\w+|[^\w\s]")
_ID_WIDTH, _CONFIDENCE_WIDTH, _FIT_WIDTH, _QUERIES_WIDTH, _COSINE_WIDTH = 10, 5, 8, 7, 7

# Metrics in the order in which they are shown; what is not measured is left out.
METRICS = (
    "token_f1",
    "token_accuracy",
    "exact_match",
    "bleu",
    "sentence_bleu",
    "rouge_l",
    "edit_similarity",
    "length_error",
    "cosine",
)


def mark_shared(text: str, other: str) -> Text:
    """Colour the words of `text` that `other` has too, each as often as it stands there."""
    from rich.text import Text

    left = Counter(word.lower() for word in _WORD.findall(other))
    out, end = Text(), 0
    for match in _WORD.finditer(text):
        word = match.group().lower()
        shared = left[word] > 0
        left[word] -= shared
        out.append(text[end : match.start()])
        out.append(match.group(), style="green" if shared else "dim")
        end = match.end()
    out.append(text[end:])
    return out


class RecoveryTable:
    """A table of recovered texts with fixed columns, so that it can be printed in parts.

    Args:
        console: where it goes.
        compare: whether there is a column with the originals.
        refined: whether queries were made: their number and the cosine are shown.

    How far to trust a text is its confidence, or where nothing is calibrated its likelihood ("lik."); the fit of its
    original is shown, or what a misfit looks like.
    """

    def __init__(self, console: Console, compare: bool, refined: bool = False) -> None:
        self._console, self._compare, self._refined, self._begun = console, compare, refined, False

    def add(self, ids: Sequence[Any], recoveries: Sequence[Any], originals: Sequence[str | None] | None = None) -> None:
        """Print some rows.

        Args:
            ids: one per row.
            recoveries: with `.text` and `.confidence`.
            originals: one per row where originals are compared.
        """
        from rich import box
        from rich.table import Table
        from rich.text import Text

        columns = 2 if self._compare else 1
        sure = not recoveries or recoveries[0].confidence is not None
        judged = any(recovery.fit is not None for recovery in recoveries)
        margin = _ID_WIDTH + _CONFIDENCE_WIDTH + 3 * (columns + 2) + (_FIT_WIDTH + 3) * judged
        if self._refined:
            margin += _QUERIES_WIDTH + _COSINE_WIDTH + 3 * 2
        width = max((self._console.width - margin) // columns, 16)
        table = Table(box=box.SIMPLE_HEAD, show_header=not self._begun, show_edge=False, pad_edge=False)
        table.add_column("id", width=_ID_WIDTH, no_wrap=True, overflow="ellipsis")
        table.add_column("conf." if sure else "lik.", width=_CONFIDENCE_WIDTH, justify="right")
        if judged:
            table.add_column("fit", width=_FIT_WIDTH, justify="right")
        if self._refined:
            table.add_column("queries", width=_QUERIES_WIDTH, justify="right")
            table.add_column("cosine", width=_COSINE_WIDTH, justify="right")
        table.add_column("recovered", width=width)
        if self._compare:
            table.add_column("original", width=width)
        for row, (name, recovery) in enumerate(zip(ids, recoveries, strict=True)):
            text = visible(recovery.text)
            trust = recovery.confidence if sure else recovery.likelihood
            cells = [Text(visible(str(name))), Text("" if trust is None else f"{trust:.2f}")]
            if judged:
                fit = "" if recovery.fit is None else f"{recovery.fit:.2f}"
                cells.append(Text(recovery.misfit or fit, style="yellow" if recovery.misfit else ""))
            if self._refined:
                cosine = recovery.cosine
                cells += [Text(str(recovery.queries)), Text("" if cosine is None else f"{cosine:.4f}")]
            if originals is None or originals[row] is None:
                cells += [Text(text)] + [Text("")] * self._compare
            else:
                original = visible(str(originals[row]))
                cells += [mark_shared(text, original), mark_shared(original, text)]
            table.add_row(*cells)
        self._console.print(table)
        self._begun = True


def show_scores(console: Console, scores: dict[str, Any]) -> None:
    """Print the metrics of a report of `evaluation.measure` with intervals, and the floor of the cosine."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("score")
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right")
    table.add_column("floor", justify="right")
    metrics = scores["metrics"]
    for name in [*(m for m in METRICS if m in metrics), *(m for m in metrics if m not in METRICS)]:
        digits = 1 if "bleu" in name else 3
        value, floor = metrics[name], scores.get("floors", {}).get(name)
        table.add_row(
            name,
            f"{value['value']:.{digits}f}",
            f"{value['low']:.{digits}f} to {value['high']:.{digits}f}",
            "" if floor is None else f"{floor['value']:.{digits}f}",
        )
    console.print(table)
