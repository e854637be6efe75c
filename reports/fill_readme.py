"""Fill the examples and the table of README.md from docs/results/*.json; no number in it is typed.

python -m reports.fill_readme           # write
python -m reports.fill_readme --check   # exit 1 when the table is not what the files say
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from reports.marks import filled
from reports.results_page import example_table, read_results
from unembed.evaluation.tables import cell, table
from unembed.files import atomic_write_bytes

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = 5
SHOWN = ("token_f1", "token_accuracy", "exact_match", "bleu", "cosine")


def build(results: list[dict[str, Any]]) -> str:
    """Make the first examples, and the table of the default strategy and the baselines on the test set."""
    inside = [r for r in results if not r.get("left_out") and r["data"]["name"] == "english-test"]
    default = next((r for r in inside if r.get("default")), None)
    if default is None:
        return "Results are not there yet: `reports/results.py` writes `docs/results/*.json`.\n"
    rows = [default, *sorted((r for r in inside if r["kind"] == "baseline"), key=lambda r: r["name"])]
    names = {id(default): f"**unembed** (`{default['name']}`)"}
    body = [
        [
            names.get(id(r), f"baseline: {r['name']}"),
            str(r["data"]["n"]),
            "-" if r.get("lengths") is None else str(r["lengths"]),
            f"{r.get('passes') or 0:.0f}",
            f"{r.get('queries') or 0:.0f}",
            *(cell(name, r["metrics"].get(name)) for name in SHOWN),
        ]
        for r in rows
    ]
    floor = default.get("floors", {}).get("cosine")
    lines = [
        "The first sentences of a random subset of the test set, not chosen:\n",
        example_table(default["examples"][:EXAMPLES]),
        f"In figures: {default['data']['name']}, n = {default['data']['n']} of {default['data']['of']} texts of 1 to "
        f"32 tokens, encoder `{default['encoder']}`, 95% bootstrap intervals"
        + (f"; the cosine of random pairs is {floor['value']:.2f}" if floor else "")
        + ".\n",
        table(["", "n", "lengths tried", "passes", "queries", *SHOWN], body),
    ]
    return "\n".join(lines)


def main() -> int:
    """Write the README, or compare it."""
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = filled(old, "results", build(read_results(ROOT / "docs" / "results")[0]))
    if "--check" in sys.argv[1:]:
        return int(new != old)
    atomic_write_bytes(path, new.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
