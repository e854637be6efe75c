"""docs/queries.md: tables, figures and a CSV file of curves over queries, from result files alone.

Contents: `write_page`, `read_curves`, `render`, and the tables.

What stands between the page's marks is written anew from the files, the rest is left alone. It has the figures and what
holds over all lengths; queries.csv beside the files has every number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.marks import fill
from unembed.evaluation.tables import (
    METRICS,
    bins_of,
    budget_figure,
    cell,
    cost_cells,
    matched_share,
    metrics_of,
    table,
    write_csv,
)
from unembed.files import read_json
from unembed.refinement.refine import DEFAULT
from unembed.refinement.surrogate import MOVES

SHOWN = ("exact_match", "token_f1", "cosine")  # on the page; the CSV file has all
NOT_RUN = "The curve has not been measured for this version; `python -m benchmarks.experiments.refinement` does it.\n"
SUMMARY = "refinement.json"  # costs and ablations


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
        [which, *(cell(metric, metrics_of(entry, which)[1].get(metric)) for entry in result["budgets"])]
        for which in bins_of(result)
    ]
    return table(["tokens", *(_queries(entry["queries"]) for entry in result["budgets"])], lines)


def _queries(count: int) -> str:
    return f"{count} {'query' if count == 1 else 'queries'}"


def spent_table(results: Sequence[Mapping[str, Any]]) -> str:
    """What each method took with its largest budget, in the run of the curve."""
    lines = []
    for result in results:
        entry = result["budgets"][-1]
        lines.append([f"`{result['name']}`", str(entry["queries"]), *cost_cells(entry)])
    return table(["method", "budget", "queries spent", "passes", "s per text", "share of vectors matched"], lines)


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
        SystemExit: the page lacks its marks.
    """
    folder = Path(folder)
    summary = folder / SUMMARY
    more = read_json(summary) if summary.exists() else {}
    curves = read_curves(folder)
    part = render(curves, more, folder)
    write_csv(folder / "queries.csv", [row for curve in curves for row in _rows_of(curve)])
    fill(page, "results", part)
    return Path(page).read_text(encoding="utf-8")


def _rows_of(curve: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Every number of a curve: a row a budget, over all lengths and for each bin."""
    for entry in curve["budgets"]:
        for which in (None, *bins_of(curve)):
            n, metrics = metrics_of(entry, which)
            named = {"set": curve["data"]["name"], "method": curve["name"], "tokens": which or "all"}
            cost = {key: entry[key] for key in ("spent", "passes", "seconds")} | {"matched": matched_share(entry)}
            cost = {} if which else cost
            yield {**named, "n": n or curve["data"]["n"], "queries": entry["queries"], **cost, **metrics}
