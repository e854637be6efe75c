"""Results as tables: every number on a page comes from a JSON file through here.

- `cell`: one metric with its interval.
- `table`: Markdown.
- `write_csv`: rows with metrics as a CSV file.
- `main_table`: what runs on one set cost and what came back.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unembed.files import atomic_write_bytes

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
