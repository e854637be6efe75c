"""Curves over queries as a table and a figure, from result files alone.

Contents: `bins_of`, `metrics_of`, `matched_share`, `cost_cells`, `curve_table`, `budget_figure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unembed.errors import DataError
from unembed.evaluation.tables import cell, table
from unembed.files import atomic_path

METRICS = {
    "exact_match": "Exact match",
    "token_f1": "Token F1",
    "bleu": "BLEU",
    "edit_similarity": "Edit similarity",
    "cosine": "Cosine",
}
FIGURES = ("exact_match", "token_f1")


def bins_of(result: Mapping[str, Any]) -> list[str]:
    """The bins of length that hold a text."""
    bins = result["budgets"][0]["bins"]["length"] if result["budgets"] else []
    return [row["bin"] for row in bins if row["n"]]


def metrics_of(entry: Mapping[str, Any], which: str | None) -> tuple[int | None, Mapping[str, Any]]:
    """Number of texts and metrics of a budget, over all lengths (None) or in a bin."""
    if which is None:
        return None, entry["metrics"]
    row = next(row for row in entry["bins"]["length"] if row["bin"] == which)
    return row["n"], row.get("metrics", {})


def matched_share(entry: Mapping[str, Any]) -> float | None:
    """Share of vectors that a budget matched; results of older versions call it met."""
    share: float | None = entry["matched"] if "matched" in entry else entry["met"]
    return share


def cost_cells(entry: Mapping[str, Any]) -> list[str]:
    """Queries, passes, seconds and the share of matched vectors of a budget, as a table shows them."""
    matched = matched_share(entry)
    share = "-" if matched is None else f"{matched:.3f}"
    return [f"{entry['spent']:.1f}", f"{entry['passes']:.0f}", f"{entry['seconds']:.2f}", share]


def curve_table(result: Mapping[str, Any]) -> str:
    """One method on one set: every budget, over all lengths and in each bin."""
    header = ["tokens", "n", "queries", *METRICS, "queries spent", "passes", "s per text", "matched"]
    lines = []
    for which in (None, *bins_of(result)):
        for entry in result["budgets"]:
            n, metrics = metrics_of(entry, which)
            cost = ["", "", "", ""]
            if which is None:
                cost = cost_cells(entry)
            label, count = which or "all", str(result["data"]["n"] if n is None else n)
            scores = [cell(name, metrics.get(name)) for name in METRICS]
            lines.append([label, count, str(entry["queries"]), *scores, *cost])
    return table(header, lines)


def budget_figure(results: Sequence[Mapping[str, Any]], path: str | Path, metrics: Sequence[str] = FIGURES) -> None:
    """Draw metrics against queries, a row of panels a metric and a panel a bin of length, one line a method.

    Args:
        results: curves on one set.
        path: PNG or SVG.
        metrics: their names.

    Raises:
        DataError: there is nothing to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bins = bins_of(results[0]) if results else []
    if not bins:
        raise DataError("There is no curve to draw.", "Run `unembed evaluate DATA --queries 0,4,16,64 --out FOLDER`.")
    figure = Figure(figsize=(2.6 * len(bins) + 0.8, 2.4 * len(metrics) + 0.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(metrics), len(bins), sharex=True, sharey="row", squeeze=False)
    marks = "osD^vP*X"
    ticks = sorted({entry["queries"] for result in results for entry in result["budgets"]})
    for line, metric in zip(panels, metrics, strict=True):
        line[0].set_ylabel(metric)
        for axes, which in zip(line, bins, strict=True):
            for number, result in enumerate(results):
                parts = [(entry["queries"], metrics_of(entry, which)[1].get(metric)) for entry in result["budgets"]]
                known = [(k, value) for k, value in parts if value is not None]
                x, spans = [k for k, _ in known], [value for _, value in known]
                mark, colour = marks[number % len(marks)], f"C{number}"
                axes.plot(x, [s["value"] for s in spans], f"{mark}-", ms=4, lw=1, color=colour, label=result["name"])
                low, high = [s["low"] for s in spans], [s["high"] for s in spans]
                axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
            axes.set_xscale("symlog", base=2, linthresh=1)
            axes.set_xticks(ticks, [str(k) for k in ticks], fontsize="small")
            axes.minorticks_off()
            axes.grid(alpha=0.3)
            axes.set_ylim(bottom=0)
    for axes, which in zip(panels[0], bins, strict=True):
        n = metrics_of(results[0]["budgets"][0], which)[0]
        axes.set_title(f"{which} tokens, n = {n}", fontsize="small")
    for axes in panels[-1]:
        axes.set_xlabel("queries per text")
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=max(len(results), 1), fontsize="small")
    kind = Path(path).suffix.lstrip(".").lower()
    with atomic_path(path) as part:
        figure.savefig(part, format=kind, metadata={"Date": None} if kind == "svg" else None)
