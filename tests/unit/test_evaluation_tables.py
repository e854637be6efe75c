"""The results page says what the JSON says; figures are drawn from the same files."""

import copy
import csv
import json

import pytest

from reports import plots, results_page
from unembed.errors import DataError, InputError
from unembed.evaluation import tables as figures


def metric(value, width=0.01):
    return {"value": value, "low": value - width, "high": value + width}


def result(name, kind="strategy", f1=0.5, **more):
    metrics = {
        "token_accuracy": metric(f1 / 2),
        "token_f1": metric(f1),
        "exact_match": metric(0.1),
        "bleu": metric(12.34, 1),
    }
    if kind == "strategy":
        metrics["masked_token_accuracy@0.5"] = metric(0.91)
    return {
        "kind": kind,
        "name": name,
        "strategy": name,
        "seed": 0,
        "data": {"name": "english-test", "n": 1000, "of": 21000, "seed": 0},
        "encoder": "minilm",
        "checkpoint": {"sha256": "abc123"},
        "machine": {"summary": "2 cores"},
        "lengths": 3,
        "passes": 8.0,
        "queries": 0.0,
        "texts_per_second": 12.34,
        "metrics": metrics,
        "floors": {"cosine": metric(0.054)},
        "bins": {"length": [{"bin": "1-8", "n": 40, "metrics": metrics}, {"bin": "32", "n": 0}]},
        "bleu_signature": "nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|version:2.6.0",
        "bootstrap": {"resamples": 1000, "level": 0.95, "seed": 0},
        **more,
    }


@pytest.fixture
def results():
    calibration = {
        "token_f1": {"ece": 0.0321, "bins": [{"low": 0.4, "high": 0.5, "n": 7, "confidence": 0.45, "realised": 0.5}]}
    }
    out_of_domain = result("adaptive", f1=0.31, left_out=True)
    out_of_domain["data"]["name"] = "left-out-source"
    return [
        result("nearest-neighbour", "baseline", f1=0.33),
        result("sequential", passes=32.0),
        result("adaptive", default=True, f1=0.61, calibration=calibration),
        out_of_domain,
    ]


def test_page_holds_every_number_with_its_interval_and_its_cost(results):
    page = results_page.render(results)
    main = page.split("## english-test")[1].split("###")[0].splitlines()
    rows = [line for line in main if line.startswith("| ") and "---" not in line]
    assert "lengths tried" in rows[0] and "passes" in rows[0] and "queries" in rows[0]
    assert rows[1].startswith(
        "| **`adaptive`** (default) | 1000 | 3 | 8 | 0 | 0.305 [0.295, 0.315] | 0.610 [0.600, 0.620]"
    )
    assert "12.3 [11.3, 13.3]" in rows[1]
    assert rows[2].startswith("| `sequential` | 1000 | 3 | 32 | 0 |")
    assert rows[3].startswith("| baseline: `nearest-neighbour` |")
    assert "0.054 [0.044, 0.064]" in page and "abc123" in page and "tok:13a" in page
    assert "Expected calibration error: 0.032 for `token_f1`" in page
    assert "![" in page.split("### By length")[1] and "results/calibration.svg" in page
    assert "\\*" not in page
    left_out = page.split("## Sources left out of training")[1]
    assert "left-out-source" in left_out and "0.310 [0.300, 0.320]" in left_out
    assert "left-out-source" not in page.split("## Sources left out")[0]


def test_a_run_with_an_older_checkpoint_is_marked(results):
    results[1]["checkpoint"] = {"sha256": "older"}
    page = results_page.render(results)
    assert "| `sequential` \\* | 1000 |" in page and "\\* Measured with an older checkpoint" in page
    assert "checkpoint (sha256) of the default: `abc123`\n" in page and "with a star: `older`" in page


def test_tables_are_well_formed(results):
    ablation = {
        "name": "whitening", "setting": "off | on", "minutes": 9, "seed": 0, "texts_seen": 131000, "n": 500,
        "metrics": {"adaptive/token_f1": metric(0.25), "left-to-right/token_f1": 0.5, "bound": 5.1234, "x": 1},
    }  # fmt: skip
    page = results_page.render(results, [ablation])
    assert "| whitening | off \\| on | 131000 | 5.123 | 0.250 [0.240, 0.260] | 0.500 |" in page
    width = None
    for line in page.splitlines():
        columns = line.replace("\\|", "").count("|") if line.startswith("|") else None
        assert width is None or columns in (None, width)
        width = columns


def test_page_from_a_folder_ignores_other_files(results, tmp_path):
    for i, value in enumerate(results):
        (tmp_path / f"{i}.json").write_text(json.dumps(value))
    (tmp_path / "ablations.json").write_text("[]")
    (tmp_path / "decode.json").write_text('{"benchmark": "decode"}')
    page = results_page.write_page(tmp_path, tmp_path / "out" / "results.md")
    assert (tmp_path / "out" / "results.md").read_text() == page == results_page.render(results[:1] + results[1:])
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["nearest-neighbour", "sequential", "adaptive", "adaptive"]
    assert (rows[1]["token_f1"], rows[1]["token_f1_low"], rows[1]["token_f1_high"]) == ("0.5", "0.49", "0.51")
    assert (rows[1]["masked_token_accuracy@0.5"], rows[0]["masked_token_accuracy@0.5"]) == ("0.91", "")
    bins = (tmp_path / "bins.csv").read_text()
    assert "adaptive,abc123,length,1-8,40,0.305" in bins and "confidence (token_f1),0.4-0.5,7," in bins
    with pytest.raises(DataError, match="no results"):
        results_page.render([])


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_figures_are_written(results, tmp_path, ending):
    results[2]["bins"]["length"].append({**copy.deepcopy(results[2]["bins"]["length"][0]), "bin": "9-16"})
    drawn = {
        "passes": lambda path: plots.passes_curve(results, path),
        "calibration": lambda path: plots.calibration_plot(results[2], path),
        "length": lambda path: plots.length_plot(results, path),
    }
    starts = {"png": b"\x89PNG", "svg": b"<?xml"}
    for name, draw in drawn.items():
        path = tmp_path / f"{name}.{ending}"
        draw(path)
        assert path.read_bytes().startswith(starts[ending]) and path.stat().st_size > 3000


def test_figures_say_what_is_missing(results, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('broken\n{"kind": "train", "texts": 1, "loss": 2}\n')
    with pytest.raises(DataError, match="line 1"):
        figures.read_log(log)
    with pytest.raises(DataError, match="calibration"):
        plots.calibration_plot(results[0], tmp_path / "a.png")
    with pytest.raises(InputError, match="PNG nor SVG"):
        plots.passes_curve(results, tmp_path / "a.pdf")
