"""Pictures of the results pages, from result files: PNG or SVG by the file's ending.

- `passes_curve`: quality and passes of each strategy, one row a run.
- `calibration_plot`: confidence against what was realised.
- `length_plot`: a metric by length, with its intervals.
- `frontier`: quality against passes, a line a strategy (log axis), the default marked.
- `known_plot`: a metric against the share of the text that was known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unembed.errors import DataError
from unembed.evaluation.tables import canvas, save


def _bars(metrics: Sequence[dict[str, float]]) -> tuple[list[float], list[list[float]]]:
    values = [m["value"] for m in metrics]
    below = [max(0.0, m["value"] - m["low"]) for m in metrics]
    above = [max(0.0, m["high"] - m["value"]) for m in metrics]
    return values, [below, above]


def passes_curve(results: Sequence[dict[str, Any]], path: str | Path, metric: str = "token_f1") -> None:
    """Plot what each run of a strategy gets beside the passes that it spends, one row a run, the best first.

    The left part has the metric with its interval, the right part the mean passes per text on a logarithmic axis. Rows
    are named, so nothing hangs on colour; the default's is bold and filled. Strategies of about equal cost would hide
    each other in a plain plot of one against the other.
    """
    runs = [r for r in results if r["kind"] == "strategy" and metric in r["metrics"]]
    if not runs:
        raise DataError(f"No run of a strategy has {metric!r}.", "Evaluate at least one strategy.")
    runs.sort(key=lambda r: r["metrics"][metric]["value"])
    figure, axes = canvas("", f"{metric}, 95% interval", "")
    figure.set_size_inches(7.2, 1.6 + 0.3 * len(runs))
    left, right = axes, figure.add_subplot(1, 2, 2)
    left.set_subplotspec(right.get_gridspec()[0])
    rows = range(len(runs))
    values, bars = _bars([r["metrics"][metric] for r in runs])
    passes = [max(float(r["passes"]), 1.0) for r in runs]
    for row, r in enumerate(runs):
        colour, fill = ("#d55e00", "#d55e00") if r.get("default") else ("#0072b2", "white")
        one = [[bars[0][row]], [bars[1][row]]]
        left.errorbar([values[row]], [row], xerr=one, fmt="o", color=colour, mfc=fill, capsize=3, markersize=6)
        right.plot([1, passes[row]], [row, row], color=colour, linewidth=1)
        right.plot([passes[row]], [row], "o", color=colour, mfc=fill, markersize=6)
        right.annotate(f"{passes[row]:.0f}", (passes[row], row), (7, -3), textcoords="offset points", fontsize="small")
    counts = {r["data"]["n"] for r in runs if "n" in r.get("data", {})}
    several = len(counts) > 1
    names = [
        r["name"] + (f", n = {r['data']['n']}" if several else "") + (" (default)" if r.get("default") else "")
        for r in runs
    ]
    left.set_yticks(rows, names)
    for label, r in zip(left.get_yticklabels(), runs, strict=True):
        label.set_fontweight("bold" if r.get("default") else "normal")
    right.set(xlabel="passes per text, mean", xscale="log", xlim=(1, 1.5 * max(passes) ** 1.2), ylim=left.get_ylim())
    right.set_xticks([t for t in (1, 3, 10, 30, 100, 300, 1000) if t <= 2.2 * max(passes)])
    right.get_xaxis().set_major_formatter(lambda value, place: f"{value:g}")
    right.minorticks_off()
    right.set_yticks(rows, [""] * len(runs))
    right.grid(alpha=0.3)
    if counts and not several:
        left.set_title(f"n = {counts.pop()}", fontsize="small", loc="left")
    save(figure, path)


def calibration_plot(result: dict[str, Any], path: str | Path) -> None:
    """Plot mean confidence against what came true, a panel a metric; the area of a point is its share of the texts."""
    parts = {name: part for name, part in result.get("calibration", {}).items() if part["bins"]}
    if not parts:
        raise DataError("The result has no calibration.", "Evaluate an inverter, not a baseline.")
    figure, axes = canvas("", "", "")
    axes.remove()
    figure.set_size_inches(4.0 * len(parts), 4.0)
    for axes, (name, part) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        total = sum(b["n"] for b in part["bins"])
        sizes = [400 * b["n"] / total + 8 for b in part["bins"]]
        axes.scatter([b["confidence"] for b in part["bins"]], [b["realised"] for b in part["bins"]], s=sizes, alpha=0.7)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="mean confidence", ylabel=f"mean {name}")
        axes.set_title(f"{name}, error {part['ece']:.3f}", fontsize="medium")
        axes.grid(alpha=0.3)
    save(figure, path)


def length_plot(results: Sequence[dict[str, Any]], path: str | Path, metric: str = "token_f1") -> None:
    """Plot a metric in the bins of length, one line a run."""
    figure, axes = canvas(f"{metric} by length", "length of the text in tokens", metric)
    drawn = False
    for r in results:
        rows = [row for row in r["bins"]["length"] if metric in row.get("metrics", {})]
        if rows:
            values, bars = _bars([row["metrics"][metric] for row in rows])
            axes.errorbar(
                [row["bin"] for row in rows], values, bars, marker="o", markersize=4, capsize=2, label=r["name"]
            )
            drawn = True
    if not drawn:
        raise DataError(f"No result has {metric!r} by length.", "Evaluate at least one run.")
    axes.legend()
    save(figure, path)


def known_plot(result: dict[str, Any], path: str | Path, metric: str = "token_f1_unknown") -> None:
    """Plot a metric against the share of known tokens, one line for each kind of knowledge; the control is dashed.

    Args:
        result: of benchmarks/experiments/constraints.py: rows with `setting`, `strategy`, `known`, `share`,
            `decoded` and `control`; those of the first setting are drawn.
        path: PNG or SVG.
        metric: over the tokens that were not known, so that knowing words does not raise it by itself.
    """
    if not result["rows"]:
        raise DataError("The result has no rows.", "Run benchmarks/experiments/constraints.py first.")
    strategy = result["rows"][0]["strategy"]
    rows = [row for row in result["rows"] if row["setting"] == result["rows"][0]["setting"]]
    start = next(row["decoded"][metric] for row in rows if row["known"] == "nothing")
    figure, axes = canvas(f"{metric} of {strategy}", "share of the tokens that is known", metric)
    for number, kind in enumerate(dict.fromkeys(row["known"] for row in rows if row["share"])):
        group = [row for row in rows if row["known"] == kind]
        for how, style in (("decoded", "-"), ("control", "--")):
            values, bars = _bars([start, *[row[how][metric] for row in group]])
            shares = [0.0, *[row["share"] for row in group]]
            label = kind if how == "decoded" else f"{kind}, control"
            axes.errorbar(
                shares, values, bars, fmt=f"o{style}", markersize=4, capsize=2, color=f"C{number}", label=label
            )
    axes.legend()
    save(figure, path)


def frontier(rows: Sequence[Mapping[str, Any]], path: str | Path, metric: str = "token_f1") -> None:
    """Plot a metric against the passes spent on a text, one line a strategy, with 95% intervals.

    Args:
        rows: runs {strategy, passes, default, metrics}, as `benchmarks/speed/passes.py` keeps them.
        path: PNG or SVG.
        metric: its name.
    """
    figure, axes = canvas(f"{metric} against passes", "passes per text (log scale)", metric)
    figure.set_size_inches(7.6, 5.2)
    marks = "osD^vP*Xhp"
    strategies = list(dict.fromkeys(row["strategy"] for row in rows if row["passes"] > 0))
    for i, strategy in enumerate(strategies):
        own = [row for row in rows if row["strategy"] == strategy and not row["default"]]
        own.sort(key=lambda row: row["passes"])
        if own:
            values, bars = _bars([row["metrics"][metric] for row in own])
            axes.errorbar(
                [row["passes"] for row in own], values, bars, marker=marks[i % len(marks)], markersize=5, capsize=2,
                linewidth=1, label=strategy, color=f"C{i}",
            )  # fmt: skip
    for row in rows:
        if row["passes"] == 0:
            axes.axhline(
                row["metrics"][metric]["value"], color="0.6", linestyle=":", label=f"{row['strategy']} (no pass)"
            )
        if row["default"]:
            values, bars = _bars([row["metrics"][metric]])
            axes.errorbar([row["passes"]], values, bars, marker="*", markersize=15, color="black", label="the default")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(fontsize="small", ncols=2, loc="lower right")
    save(figure, path)
