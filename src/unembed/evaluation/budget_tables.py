"""Curves over queries as tables, a figure and a page, from result files alone.

Contents: `curve_table`, `overall_table`, `length_table`, `spent_table`, `cost_table`, `ablation_table`,
`budget_figure`, `write_page`, `read_curves`.

The page is docs/queries.md: what is between its two marks is written anew from the files, the rest is left alone.
It has the figures and what holds over all lengths; queries.csv beside the files has every number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unembed.errors import DataError
from unembed.evaluation.tables import cell, table, write_csv
from unembed.files import atomic_path, atomic_write_bytes, read_json
from unembed.refinement.methods import DEFAULT
from unembed.refinement.surrogate import MOVES

METRICS = {
    "exact_match": "Exact match",
    "token_f1": "Token F1",
    "bleu": "BLEU",
    "edit_similarity": "Edit similarity",
    "cosine": "Cosine",
}
FIGURES = ("exact_match", "token_f1")
SHOWN = ("exact_match", "token_f1", "cosine")  # on the page; the CSV file has all
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
NOT_RUN = "The curve has not been measured for this version; `python benchmarks/refinement.py` does it.\n"
SUMMARY = "refinement.json"  # costs and ablations


def _rows(result: Mapping[str, Any]) -> list[str]:
    """The bins of length that hold a text."""
    bins = result["budgets"][0]["bins"]["length"] if result["budgets"] else []
    return [row["bin"] for row in bins if row["n"]]


def _metrics(entry: Mapping[str, Any], which: str | None) -> tuple[int | None, Mapping[str, Any]]:
    """Number of texts and metrics of a budget, over all lengths (None) or in a bin."""
    if which is None:
        return None, entry["metrics"]
    row = next(row for row in entry["bins"]["length"] if row["bin"] == which)
    return row["n"], row.get("metrics", {})


def curve_table(result: Mapping[str, Any]) -> str:
    """One method on one set: every budget, over all lengths and in each bin."""
    header = ["tokens", "n", "queries", *METRICS, "queries spent", "passes", "s per text", "met"]
    lines = []
    for which in (None, *_rows(result)):
        for entry in result["budgets"]:
            n, metrics = _metrics(entry, which)
            cost = ["", "", "", ""]
            if which is None:
                met = "-" if entry["met"] is None else f"{entry['met']:.3f}"
                cost = [f"{entry['spent']:.1f}", f"{entry['passes']:.0f}", f"{entry['seconds']:.2f}", met]
            label, count = which or "all", str(result["data"]["n"] if n is None else n)
            scores = [cell(name, metrics.get(name)) for name in METRICS]
            lines.append([label, count, str(entry["queries"]), *scores, *cost])
    return table(header, lines)


def overall_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Methods beside each other on one set, over all lengths: a row a metric and method, a column a budget."""
    budgets = sorted({entry["queries"] for result in results for entry in result["budgets"]})
    lines = []
    for metric in SHOWN:
        for result in results:
            cells = {entry["queries"]: entry["metrics"].get(metric) for entry in result["budgets"]}
            lines.append([METRICS[metric], f"`{result['name']}`", *(cell(metric, cells.get(k)) for k in budgets)])
    return table(["metric", "method", *map(_queries, budgets)], lines, left=2)


def length_table(result: Mapping[str, Any], metric: str = "exact_match") -> str:
    """One method on one set: a metric for each bin of length, a column a budget."""
    lines = [
        [which, *(cell(metric, _metrics(entry, which)[1].get(metric)) for entry in result["budgets"])]
        for which in _rows(result)
    ]
    return table(["tokens", *(_queries(entry["queries"]) for entry in result["budgets"])], lines)


def _queries(count: int) -> str:
    return f"{count} {'query' if count == 1 else 'queries'}"


def spent_table(results: Sequence[Mapping[str, Any]]) -> str:
    """What each method took with its largest budget, in the run of the curve."""
    lines = []
    for result in results:
        entry = result["budgets"][-1]
        met = "-" if entry["met"] is None else f"{entry['met']:.3f}"
        spent = [f"{entry['spent']:.1f}", f"{entry['passes']:.0f}", f"{entry['seconds']:.2f}", met]
        lines.append([f"`{result['name']}`", str(entry["queries"]), *spent])
    return table(["method", "budget", "queries spent", "passes", "s per text", "share of vectors met"], lines)


def cost_table(costs: Sequence[Mapping[str, Any]]) -> str:
    """What each method and budget costs, in runs of its own."""
    header = ["method", "budget", "n", "queries", "passes", "s per text", "share in matrix products"]
    lines = [
        [
            f"`{row['method']}`", str(row["budget"]), str(row["n"]), f"{row['queries']:.1f}", f"{row['passes']:.0f}",
            f"{row['seconds']:.2f}", f"{row['share']:.2f}",
        ]
        for row in costs
    ]  # fmt: skip
    return table(header, lines)


def ablation_table(results: Sequence[Mapping[str, Any]], budget: int | None = None) -> str:
    """What is lost without each kind of move, at one budget (the largest where None)."""
    lines = []
    for result in results:
        entries = [entry for entry in result["budgets"] if budget is None or entry["queries"] == budget]
        if entries:
            entry = entries[-1]
            scores = [cell(name, entry["metrics"].get(name)) for name in METRICS]
            lines.append([result["name"], str(result["data"]["n"]), str(entry["queries"]), *scores])
    return table(["moves", "n", "queries", *METRICS], lines)


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

    bins = _rows(results[0]) if results else []
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
                parts = [(entry["queries"], _metrics(entry, which)[1].get(metric)) for entry in result["budgets"]]
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
        n = _metrics(results[0]["budgets"][0], which)[0]
        axes.set_title(f"{which} tokens, n = {n}", fontsize="small")
    for axes in panels[-1]:
        axes.set_xlabel("queries per text")
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=max(len(results), 1), fontsize="small")
    kind = Path(path).suffix.lstrip(".").lower()
    with atomic_path(path) as part:
        figure.savefig(part, format=kind, metadata={"Date": None} if kind == "svg" else None)


def read_curves(folder: str | Path) -> list[dict[str, Any]]:
    """Read the curves of a folder of results, ablations left out; those of sources left out of training come last."""
    values = [read_json(path) for path in sorted(Path(folder).glob("*-refinement-*.json"))]
    curves = [value for value in values if isinstance(value, dict) and value.get("kind") == "refinement"]
    return sorted(curves, key=lambda r: (bool(r.get("left_out")), r["data"]["name"], r["name"]))


def render(curves: Sequence[dict[str, Any]], more: Mapping[str, Any], folder: Path, link: str = "results/") -> str:
    """Write the part of the page that holds figures, and draw the pictures.

    Args:
        curves: of `read_curves`.
        more: costs and ablations, {"costs": [...], "ablations": [...]}; may be empty.
        folder: where the pictures go.
        link: how the page reaches that folder.
    """
    if not curves:
        return NOT_RUN
    parts = [f"All numbers, each metric by length too: [queries.csv]({link}queries.csv).\n"]
    for name in dict.fromkeys(curve["data"]["name"] for curve in curves):
        here = [curve for curve in curves if curve["data"]["name"] == name]
        best = next((curve for name in (DEFAULT, "combined") for curve in here if curve["name"] == name), here[-1])
        picture = f"refinement-{name}.svg"
        budget_figure(here, folder / picture)
        left_out = ", a source left out of training" if best.get("left_out") else ""
        floor = best["budgets"][0].get("floors", {}).get("cosine")
        drafts = f", drafts by `{best['options']['strategy']}`" if best.get("options") else ""
        parts += [
            f"### {name}{left_out}\n",
            f"![Exact match and token_f1 over queries on {name}, a panel for each length]({link}{picture})\n",
            f"n = {best['data']['n']} of {best['data']['of']} texts (seed {best['seed']}), {best['encoder']}, "
            f"checkpoint `{best['checkpoint']['sha256'][:8]}`{drafts}, tolerance "
            f"{(best['search'] or {}).get('tolerance', 0):.1g}, {best['machine']['summary']}. Brackets are 95% "
            f"bootstrap intervals; the cosine of random pairs of these texts is {cell('cosine', floor)}."
            f"{_without(here)}\n",
            overall_table(here),
        ]
        if not left_out:
            parts += [f"Exact match of `{best['name']}` by length in tokens:\n", length_table(best)]
        parts += ["Spent with the largest budget:\n", spent_table(here)]
    if more.get("costs"):
        parts += [
            "### What it costs\n",
            f"Runs of their own, one a budget, on {more['machine']['summary']}; the share in matrix products is "
            "operations counted over time, divided by the measured rate of a plain product.\n",
            cost_table(more["costs"]),
        ]
    if more.get("ablations"):
        parts += ["### What is lost without a kind of move\n", ablation_table(more["ablations"])]
    return "\n".join(parts)


def _without(curves: Sequence[Mapping[str, Any]]) -> str:
    """Which curves of a search were measured without some kinds of move."""
    out = ""
    for curve in curves:
        moves = (curve["search"] or {}).get("moves") or ()
        missing = [f"`{move}`" for move in MOVES if move not in moves]
        if moves and missing and curve["refinement"] in ("search", "combined"):
            out += f" `{curve['name']}` was measured without the moves {', '.join(missing)}."
    return out


def write_page(folder: str | Path, page: str | Path) -> str:
    """Fill the part of docs/queries.md between its marks from the files of a folder; return the text.

    Raises:
        DataError: the page lacks its marks.
    """
    folder, page = Path(folder), Path(page)
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise DataError(f"{page} lacks the marks {BEGIN} and {END}.", "Restore them where the figures belong.")
    summary = folder / SUMMARY
    more = read_json(summary) if summary.exists() else {}
    curves = read_curves(folder)
    filled = render(curves, more, folder)
    write_csv(folder / "queries.csv", [row for curve in curves for row in _rows_of(curve)])
    whole = f"{text.split(BEGIN)[0]}{BEGIN}\n\n{filled}\n{END}{text.split(END)[1]}"
    atomic_write_bytes(page, whole.encode())
    return whole


def _rows_of(curve: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Every number of a curve: a row a budget, over all lengths and for each bin."""
    for entry in curve["budgets"]:
        for which in (None, *_rows(curve)):
            n, metrics = _metrics(entry, which)
            named = {"set": curve["data"]["name"], "method": curve["name"], "tokens": which or "all"}
            cost = {} if which else {key: entry[key] for key in ("spent", "passes", "seconds", "met")}
            yield {**named, "n": n or curve["data"]["n"], "queries": entry["queries"], **cost, **metrics}
