"""Scores of recovered texts beside their originals, for `unembed invert --compare`. Contents: `Scores`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unembed.inverter import Inverter, Recovery

_FEW = 20  # fewer texts get a line, not a table whose intervals say nothing


@dataclass
class _Group:
    """Texts that are scored together: recovered ids, reference ids, vectors, confidence, what was known."""

    preds: list[list[int]] = field(default_factory=list)
    refs: list[list[int]] = field(default_factory=list)
    vectors: list[Any] = field(default_factory=list)
    confidence: list[float | None] = field(default_factory=list)
    known: list[set[int]] = field(default_factory=list)

    def add(self, recovery: Recovery, reference: list[int], vector: Any) -> None:
        from unembed.metrics.partial import known_places

        self.preds.append(list(recovery.token_ids))
        self.refs.append(reference)
        self.vectors.append(vector)
        self.confidence.append(recovery.confidence)
        self.known.append(known_places(recovery.token_ids, reference, recovery.given, recovery.forced))


class Scores:
    """What `--compare` gathers, and the reports over it.

    Originals longer than the limit in tokens are scored apart, against their first tokens: their vectors hold more than
    the model can say. So are, once more, the rows whose vectors do not fit the model.

    Args:
        inverter: the model.
        queries: that were allowed for each text.
    """

    def __init__(self, inverter: Inverter, queries: int = 0) -> None:
        self._inverter, self._queries = inverter, queries
        self._spent = 0
        self._whole, self._long, self._misfit = _Group(), _Group(), _Group()
        self._dropped = 0

    def add(self, vectors: Any, found: Sequence[Recovery], originals: Sequence[Any]) -> None:
        """Add some rows; originals that are empty or hold unknown characters are left out of the scores."""
        texts = ["" if text is None else str(text) for text in originals]
        tokenizer, max_length = self._inverter.tokenizer, self._inverter.max_length
        cut = tokenizer.truncate(texts, max_length)
        for vector, recovery, reference, text in zip(vectors, found, cut, texts, strict=True):
            if reference is None:
                self._dropped += 1
                continue
            ids = list(reference.ids)
            longer = len(ids) >= max_length - 1 and len(tokenizer.encode([text])[0]) > max_length
            (self._long if longer else self._whole).add(recovery, ids, vector)
            if recovery.misfit is not None:
                self._misfit.add(recovery, ids, vector)
            self._spent += recovery.queries

    def show(self, as_json: bool, quiet: bool) -> None:
        """Measure and print: tables, or one JSON object after the rows."""
        from unembed.cli.console import note, show_json, stdout_console
        from unembed.cli.display import show_scores

        count = len(self._whole.refs) + len(self._long.refs)
        if not count:
            note("No original can be compared: all are empty or hold unknown characters.", quiet)
            return
        max_length = self._inverter.max_length
        parts = {
            "scores": (self._whole, f"texts of at most {max_length} tokens"),
            "over_limit": (self._long, f"texts longer than {max_length} tokens, against their first {max_length}"),
            "misfits": (self._misfit, "rows above whose vectors do not fit the model"),
        }
        reports = {name: (self._report(group), len(group.refs), words) for name, (group, words) in parts.items()}
        if as_json:
            show_json({name: report for name, (report, n, _) in reports.items() if n}, indent=None)
            return
        for report, n, words in reports.values():
            if 0 < n < min(_FEW, count):
                note(f"{n:,} {words}: token_f1 {report['metrics']['token_f1']['value']:.3f}.", quiet)
            elif n:
                note(f"{n:,} {words}:", quiet or n == count)
                show_scores(stdout_console(), report)
        made = f"{self._spent / count:.1f} queries per text were" if self._queries else "no query was"
        note(f"n = {count} texts; {made} made to recover them.", quiet)
        if self._dropped:
            note(f"{self._dropped} originals are empty or hold unknown characters and are not scored.", quiet)

    def _report(self, group: _Group) -> dict[str, Any]:
        """What `evaluation.measure` says of a group; {} where it is empty."""
        import numpy as np

        from unembed.evaluation.measure import measure
        from unembed.evaluation.sets import EvaluationSet
        from unembed.metrics.bootstrap import summary
        from unembed.metrics.partial import unknown_statistics

        if not group.refs:
            return {}
        tokenizer, encoder = self._inverter.tokenizer, self._inverter.encoder
        report = measure(
            group.preds,
            EvaluationSet("compared rows", group.refs, np.stack(group.vectors)),
            display=tokenizer.detokenize,
            embed=lambda ids: encoder.encode([tokenizer.decode(row) for row in ids]),
            confidence=None if None in group.confidence else [c for c in group.confidence if c is not None],
        )
        if any(group.known):
            unknown = unknown_statistics(group.preds, group.refs, group.known)
            report["metrics"] |= {name: summary(value) for name, value in unknown.items()}
        return report
