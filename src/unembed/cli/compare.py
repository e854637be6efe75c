"""Scores of recovered texts beside their originals, for `unembed invert --compare`. Contents: `Scores`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unembed.inverter import Inverter, Recovery


class Scores:
    """What `--compare` gathers: recovered ids, reference ids and vectors, and the report over them.

    Args:
        inverter: the model.
        queries: that were allowed for each text.
    """

    def __init__(self, inverter: Inverter, queries: int = 0) -> None:
        self._inverter, self._queries = inverter, queries
        self._spent = 0
        self._preds: list[list[int]] = []
        self._refs: list[list[int]] = []
        self._vectors: list[Any] = []
        self._confidence: list[float | None] = []
        self._known: list[set[int]] = []
        self._dropped = 0

    def add(self, vectors: Any, found: Sequence[Recovery], originals: Sequence[Any]) -> None:
        """Add some rows; originals that are empty or hold unknown characters are left out of the scores."""
        texts = ["" if text is None else str(text) for text in originals]
        from unembed.metrics.partial import known_places

        cut = self._inverter.tokenizer.truncate(texts, self._inverter.limit)
        for vector, recovery, reference in zip(vectors, found, cut, strict=True):
            if reference is None:
                self._dropped += 1
                continue
            self._preds.append(list(recovery.token_ids))
            self._refs.append(list(reference.ids))
            self._vectors.append(vector)
            self._confidence.append(recovery.confidence)
            self._spent += recovery.queries
            self._known.append(known_places(recovery.token_ids, reference.ids, recovery.given, recovery.forced))

    def show(self, as_json: bool, quiet: bool) -> None:
        """Measure and print: a table, or one JSON object after the rows."""
        import numpy as np

        from unembed.cli.console import note, show_json, stdout_console
        from unembed.cli.display import show_scores
        from unembed.evaluation.measure import measure
        from unembed.evaluation.sets import EvaluationSet
        from unembed.metrics.bootstrap import summary
        from unembed.metrics.partial import unknown_statistics

        if not self._refs:
            note("No original can be compared: all are empty or hold unknown characters.", quiet)
            return
        tokenizer, encoder = self._inverter.tokenizer, self._inverter.encoder
        report = measure(
            self._preds,
            EvaluationSet("compared rows", self._refs, np.stack(self._vectors)),
            display=tokenizer.detokenize,
            embed=lambda ids: encoder.encode([tokenizer.decode(row) for row in ids]),
            confidence=None if None in self._confidence else [c for c in self._confidence if c is not None],
        )
        if any(self._known):
            unknown = unknown_statistics(self._preds, self._refs, self._known)
            report["metrics"] |= {name: summary(value) for name, value in unknown.items()}
        if as_json:
            show_json({"scores": report}, indent=None)
            return
        show_scores(stdout_console(), report)
        made = f"{self._spent / len(self._refs):.1f} queries a text were" if self._queries else "no query was"
        note(
            f"n = {len(self._refs)} texts of at most {self._inverter.limit} tokens; {made} made to recover them.", quiet
        )
        if self._dropped:
            note(f"{self._dropped} originals are empty or hold unknown characters and are not scored.", quiet)
