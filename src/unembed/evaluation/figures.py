"""Pictures from training logs (matplotlib, Agg): PNG or SVG by the file's ending.

- `canvas`, `save`: an empty picture, and a picture as a file.
- `read_log`: the JSONL log of a run.
- `dynamics`: validation bound and token_accuracy of several runs (the paper's figure 2).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unembed.errors import DataError, InputError
from unembed.files import atomic_path


def canvas(title: str, x: str, y: str) -> tuple[Any, Any]:
    """Return a figure and its axes.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("Figures need matplotlib, which is not installed.", "Run: pip install matplotlib.") from error
    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
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
