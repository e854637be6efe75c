"""Results as tables and pictures: every number on a page comes from a JSON file through here.

- `cell`, `table`: one metric with its interval, and Markdown; `write_csv`: rows with metrics as a CSV file.
- `main_table`: what runs on one set cost and what came back.
- `curve_table`, `budget_figure`, `bins_of`, `metrics_of`, `matched_share`, `cost_cells`: curves over queries.
- `canvas`, `save`: an empty picture, and a picture as a file: PNG or SVG by its ending (matplotlib, Agg).
- `read_log`, `dynamics`: the JSONL log of a run, and the validation of several runs (the paper's figure 2).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unembed.errors import DataError, InputError
from unembed.files import atomic_path, atomic_write_bytes

MAIN = ("token_accuracy", "token_f1", "exact_match", "bleu", "cosine")
_DECIMALS = {"bleu": 1, "sentence_bleu": 1, "length_error": 2}


def cell(name: str, metric: dict[str, float] | float | None) -> str:
    """Format a metric as "0.512 [0.498, 0.526]"; alone where it has no interval, a dash where it was not measured."""
    if metric is None:
        return "-"
    digits = _DECIMALS.get(name.split("/")[-1], 3)
    if isinstance(metric, (int, float)):
        return f"{metric:.{digits}f}"
    return f"{metric['value']:.{digits}f} [{metric['low']:.{digits}f}, {metric['high']:.{digits}f}]"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Build a Markdown table; the first `left` columns are aligned left, the others right."""
    rule = ["---" if i < left else "---:" for i in range(len(header))]
    lines = [header, rule, *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines) + "\n"


def write_csv(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to a CSV file; a metric {value, low, high} becomes the columns NAME, NAME_low and NAME_high."""
    flat = []
    for row in rows:
        cells: dict[str, Any] = {}
        for name, value in row.items():
            parts = value if isinstance(value, Mapping) else {"value": value}
            for part, found in parts.items():
                key = name if part == "value" else f"{name}_{part}"
                cells[key] = f"{found:.6g}" if isinstance(found, float) else found
        flat.append(cells)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(key for cells in flat for key in cells)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    atomic_write_bytes(path, text.getvalue().encode())


def number(value: Any) -> str:
    """Format a count or a mean; a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return str(value)


def label(result: dict[str, Any]) -> str:
    """Name a run as the tables do."""
    name = f"`{result['name']}`"
    if result["kind"] == "baseline":
        return f"baseline: {name}"
    return f"**{name}** (default)" if result.get("default") else name


def in_order(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort: the default, the other strategies by name, the baselines."""
    return sorted(results, key=lambda r: (r["kind"] == "baseline", not r.get("default"), r["name"]))


def older(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of a strategy with another checkpoint than the default's."""
    runs = [r for r in results if r["kind"] == "strategy"]
    own = {r["checkpoint"]["sha256"] for r in runs if r.get("default")}
    return [r for r in runs if own and r["checkpoint"]["sha256"] not in own]


def main_table(results: Sequence[dict[str, Any]]) -> str:
    """What each run cost and what came back; one set. Runs with an older checkpoint than the default's have a star."""
    old = older(results)
    header = ["run", "n", "lengths tried", "passes", "queries", *MAIN, "texts/s"]
    rows = []
    for r in in_order(results):
        cost = [r["data"]["n"], r.get("lengths"), r.get("passes"), r.get("queries")]
        scores = [cell(name, r["metrics"].get(name)) for name in MAIN]
        name = label(r) + (" \\*" if r in old else "")
        rows.append([name, *map(number, cost), *scores, number(r.get("texts_per_second"))])
    return table(header, rows)


def blank(width: float, height: float) -> Any:
    """A figure of this size in inches, without axes.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("Figures need matplotlib, which is not installed.", "Run: pip install matplotlib.") from error
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def canvas(title: str, x: str, y: str) -> tuple[Any, Any]:
    """Return a figure and its axes; errors as of `blank`."""
    figure = blank(6.4, 4.0)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def save(figure: Any, path: str | Path) -> None:
    """Write a figure; the same figure gives the same bytes.

    Raises:
        InputError: the ending is neither .png nor .svg.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in ("png", "svg"):
        raise InputError(f"{path} is neither PNG nor SVG.", "Give the file one of these endings.")
    with atomic_path(path) as part:
        figure.savefig(part, format=kind, metadata={"Date": None} if kind == "svg" else None)


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """Read a JSONL log; a last line cut off by a crash is left out.

    Raises:
        DataError: the file is absent, or a line other than the last is not a JSON object.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise DataError(f"{path}, line {number} is not JSON.", "Restore the log or remove the line.") from error
    return [row for row in rows if isinstance(row, dict)]


def dynamics(logs: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path) -> None:
    """Plot the validation bound and the decoded token_accuracy of runs against the texts they have seen.

    Args:
        logs: run -> rows {texts, bound, "strategy/token_accuracy"}, as `paper_page.read_curve` returns them.
        path: PNG or SVG.
    """
    figure, axes = canvas("Validation over training", "texts seen", "bound, nats per token")
    right = None
    for name, rows in logs.items():
        points = [(row["texts"], row["bound"]) for row in rows if "bound" in row]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"{name}: bound")
        for key in dict.fromkeys(k for row in rows for k in row if k.endswith("/token_accuracy")):
            if right is None:
                right = axes.twinx()
                right.set(ylabel="token_accuracy, decoded from all masks", ylim=(0, None))
            decoded = [(row["texts"], row[key]) for row in rows if key in row]
            right.plot(*zip(*decoded, strict=True), "--s", markersize=3, label=f"{name}: {key}")
    handles = [*axes.lines, *(right.lines if right is not None else ())]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize="small")
    save(figure, path)


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
    bins = bins_of(results[0]) if results else []
    if not bins:
        raise DataError("There is no curve to draw.", "Run `unembed evaluate DATA --queries 0,4,16,64 --out FOLDER`.")
    figure = blank(2.6 * len(bins) + 0.8, 2.4 * len(metrics) + 0.8)
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
    save(figure, path)
