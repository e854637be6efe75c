"""Curves over queries as tables, figure and page, from made-up results."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from reports.queries_page import NOT_RUN, ablation_table, cost_table, overall_table, write_page
from unembed.cli.query_curve import read_budgets
from unembed.errors import DataError, InputError
from unembed.evaluation.tables import METRICS, budget_figure, curve_table
from unembed.files import write_json

BUDGETS = (0, 4, 64)


def span(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def curve(name: str = "combined", base: float = 0.1, data: str = "set", left_out: bool = False) -> dict:
    def metrics(k: int, more: float) -> dict:
        return {metric: span(base + k / 100 + more) for metric in METRICS}

    budgets = []
    for k in BUDGETS:
        bins = [
            {"bin": "1-8", "n": 20, "metrics": metrics(k, 0.1)},
            {"bin": "9-16", "n": 0},
            {"bin": "32", "n": 10, "metrics": metrics(k, 0.0)},
        ]
        cost = {"spent": k / 2, "passes": 10.0 * k, "seconds": k / 10, "matched": None if not k else 0.25}
        floors = {"cosine": span(0.04)}
        budgets.append({"queries": k, **cost, "metrics": metrics(k, 0.05), "floors": floors, "bins": {"length": bins}})
    return {
        "kind": "refinement",
        "name": name,
        "left_out": left_out,
        "seed": 0,
        "encoder": "minilm",
        "data": {"name": data, "n": 30, "of": 100, "seed": 0},
        "checkpoint": {"name": "m", "sha256": "0123456789"},
        "machine": {"summary": "a machine"},
        "search": {"tolerance": 1e-5},
        "budgets": budgets,
    }


def test_tables_hold_every_budget_and_bin_with_texts() -> None:
    text = curve_table(curve())
    assert text.count("\n") == 2 + 3 * len(BUDGETS) and "9-16" not in text
    assert "| 1-8 | 20 | 64 | 0.840 [0.830, 0.850] |" in text and "| 32.0 | 640 | 6.40 | 0.250 |" in text
    text = overall_table([curve(), curve("best-of", 0.05)])
    assert "| Exact match | `best-of` | 0.100 [0.090, 0.110] |" in text and "64 queries" in text.splitlines()[0]
    assert "0.790" in ablation_table([curve("moves-all")]) and "0.190" in ablation_table([curve("x")], 4)
    row = {"method": "search", "budget": 4, "n": 8, "queries": 3.5, "passes": 120.0, "seconds": 0.5, "share": 0.31}
    assert "| `search` | 4 | 8 | 3.5 | 120 | 0.50 | 0.31 |" in cost_table([row])


def test_the_figure_has_a_panel_a_bin(tmp_path: Path) -> None:
    budget_figure([curve(), curve("best-of", 0.05)], tmp_path / "f.svg")
    text = (tmp_path / "f.svg").read_text()
    assert text.count("1-8 tokens, n = 20") == 1 and "best-of" in text and "9-16" not in text
    with pytest.raises(DataError, match="no curve"):
        budget_figure([], tmp_path / "g.svg")


def test_the_page_is_filled_between_its_marks(tmp_path: Path) -> None:
    page, folder = tmp_path / "queries.md", tmp_path / "results"
    folder.mkdir()
    page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    assert NOT_RUN in write_page(folder, page)
    write_json(folder / "set-refinement-combined.json", curve())
    write_json(folder / "other-refinement-combined.json", curve(data="other", left_out=True))
    write_json(
        folder / "refinement.json", {"machine": {"summary": "x", "threads": 2}, "ablations": [curve("moves-all")]}
    )
    text = write_page(folder, page)
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert text.index("### set") < text.index("### other, a source left out of training") < text.index("moves-all")
    assert text.count("| metric | method |") == 2 and text.count("Exact match of `combined` by length") == 1
    assert text.count("| method | budget | queries spent |") == 2
    with (folder / "queries.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * len(BUDGETS) and set(METRICS) < set(rows[0])
    last = next(row for row in rows if (row["set"], row["tokens"], row["queries"]) == ("set", "1-8", "64"))
    assert (last["n"], last["bleu"], last["bleu_low"], last["passes"]) == ("20", "0.84", "0.83", "")
    assert (folder / "refinement-set.svg").exists() and "results/refinement-other.svg" in text
    assert write_page(folder, page) == text
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="<!-- results -->"):
        write_page(folder, page)


def test_budgets_are_read() -> None:
    assert read_budgets("16, 0,4,4") == (0, 4, 16)
    for bad in ("", "4,", "-1", "4.5", "many"):
        with pytest.raises(InputError, match="--queries"):
            read_budgets(bad)
