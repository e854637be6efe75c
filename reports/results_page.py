"""docs/results.md and its CSV files, from the JSON files of the harness.

- `render`: the whole page from a list of results and the ablations.
- `write_page`: the same from a folder of JSON files, with the CSV files that hold what the page leaves out.
- `read_results`: those JSON files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unembed.errors import DataError
from unembed.evaluation.tables import MAIN, cell, label, main_table, number, older, table, write_csv
from unembed.files import atomic_write_bytes, read_json

BINNED = ("token_accuracy", "token_f1", "exact_match", "bleu")
COMPARED = ("bound", "causal_nll", "adaptive/token_f1", "left-to-right/token_f1")  # of ablations; nats, then scores
INTRODUCTION = """\
# Results

What comes back from a vector alone, without a query to the encoder, on texts that the model has not seen. Brackets are
95% bootstrap intervals. Higher is better. [Concepts](concepts.md#how-results-are-measured) says what each metric
counts; `token_accuracy` is decoded from all masks, position by position, and is not the teacher-forced accuracy that is
often reported under this name. What queries bring is in [Budgets of queries](queries.md).

All numbers, with further metrics (ROUGE-L, edit similarity, teacher-forced accuracy, error of the length):
[each run]({link}runs.csv), [each run by length, nearness and confidence]({link}bins.csv),
[ablations]({link}ablations.csv). This page and these files are made by `reports/results.py` from the JSON files in
`docs/results`; no number is typed.
"""


def _footnote(results: Iterable[dict[str, Any]]) -> list[str]:
    return ["\\* Measured with an older checkpoint than the one that ships now.\n"] if older(results) else []


def bin_table(result: dict[str, Any], which: str, title: str) -> str:
    """One run in bins (`which` is a key of its "bins")."""
    rows = [
        [row["bin"], str(row["n"]), *(cell(name, row.get("metrics", {}).get(name)) for name in BINNED)]
        for row in result["bins"][which]
    ]
    return table([title, "n", *BINNED], rows)


def left_out_table(results: Sequence[dict[str, Any]]) -> str:
    """Sets whose sources were left out of training, beside their nearest-neighbour baseline where it was run."""
    old = older(results)
    header = ["source left out", "run", "n", "lengths tried", "passes", "queries", *MAIN]
    rows = []
    for r in sorted(results, key=lambda r: r["data"]["name"]):
        cost = [r["data"]["n"], r.get("lengths"), r.get("passes"), r.get("queries")]
        scores = [cell(name, r["metrics"].get(name)) for name in MAIN]
        name = label(r) + (" \\*" if r in old else "")
        rows.append([r["data"]["name"], name, *map(number, cost), *scores])
    return table(header, rows, left=2)


def ablation_table(ablations: Sequence[dict[str, Any]]) -> str:
    """Experiments at equal wall-clock, one table for each recipe and machine.

    Args:
        ablations: entries {name, setting, recipe, machine, minutes, seed, texts_seen, metrics, n}; a metric is
            {value, low, high}, or a number where it has no interval; its name may begin with the strategy
            ("adaptive/token_f1").
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in ablations:  # equal wall-clock means the same only on the same machine
        groups.setdefault(f"`{entry.get('recipe') or '-'}` on {entry.get('machine') or '-'}", []).append(entry)
    parts = []
    for title, entries in groups.items():
        minutes, n = ("/".join(dict.fromkeys(number(e.get(key)) for e in entries)) for key in ("minutes", "n"))
        names = [name for name in COMPARED if any(name in entry["metrics"] for entry in entries)]
        rows = [
            [e["name"], e["setting"], number(e.get("texts_seen")), *(cell(k, e["metrics"].get(k)) for k in names)]
            for e in entries
        ]
        parts.append(f"Variants of {title}, {minutes} minutes each, n = {n}:\n")
        parts.append(table(["experiment", "setting", "texts seen", *names], rows, left=2))
    return "\n".join(parts)


def example_table(examples: Sequence[dict[str, Any]]) -> str:
    """Texts beside what was recovered, as drawn by the seed, not chosen."""
    rows = [
        [e["text"], e["recovered"], "" if e["confidence"] is None else f"{e['confidence']:.2f}", f"{e['token_f1']:.2f}"]
        for e in examples
    ]
    return table(["text", "recovered", "confidence", "token_f1"], rows, left=2)


def _unique(values: Iterable[Any]) -> str:
    seen = dict.fromkeys(str(v) for v in values if v not in (None, "", {}))
    return ", ".join(f"`{v}`" for v in seen) or "-"


def _floors(results: Sequence[dict[str, Any]]) -> str:
    """The cosine of random pairs of each set, from its largest run."""
    floors: dict[str, str] = {}
    for r in sorted(results, key=lambda r: -r["data"]["n"]):
        if r.get("floors", {}).get("cosine"):
            floors.setdefault(r["data"]["name"], cell("cosine", r["floors"]["cosine"]))
    return ", ".join(f"{floor} on {name}" for name, floor in sorted(floors.items()))


def _setting(results: Sequence[dict[str, Any]]) -> str:
    resamples = _unique(r["bootstrap"]["resamples"] for r in results)
    before = _unique(r["checkpoint"]["sha256"] for r in older(results))
    own = _unique(r["checkpoint"]["sha256"] for r in results if r.get("default") or not older(results))
    lines = [
        f"- encoder: {_unique(r.get('encoder') for r in results)}",
        f"- machine: {_unique(r.get('machine', {}).get('summary') for r in results)}",
        f"- checkpoint (sha256) of the default: {own}",
        f"- older checkpoints, of the runs with a star: {before}",
        f"- seed of texts, strategies and intervals: {_unique(r.get('seed') for r in results)}",
        f"- intervals: 95%, percentile bootstrap over texts, {resamples} resamples",
        f"- BLEU: {_unique(r.get('bleu_signature') for r in results)}",
        f"- the cosine of random pairs of texts, its floor: {_floors(results)}",
    ]
    return "\n".join(lines) + "\n"


def render(results: Sequence[dict[str, Any]], ablations: Sequence[dict[str, Any]] = (), link: str = "results/") -> str:
    """Build the results page.

    Args:
        results: files of the harness, any number of sets; those with "left_out": true go into the out-of-domain table.
        ablations: entries of docs/results/ablations.json.
        link: the way from the page to the folder of the figures and CSV files.

    Returns:
        Markdown.

    Raises:
        DataError: there is no result.
    """
    if not results:
        raise DataError("There are no results to render.", "Run python -m reports.results first.")
    parts = [INTRODUCTION.format(link=link)]
    inside = [r for r in results if not r.get("left_out")]
    for name in dict.fromkeys(r["data"]["name"] for r in inside):
        here = [r for r in inside if r["data"]["name"] == name]
        parts += [f"## {name}\n", f"Random subsets of the {here[0]['data'].get('of')} texts of the set.\n"]
        parts += [main_table(here), *_footnote(here)]
        default = next((r for r in here if r.get("default")), None)
        if default:
            parts += _default(default, link)
    outside = [r for r in results if r.get("left_out")]
    if outside:
        parts += ["## Sources left out of training\n", left_out_table(outside), *_footnote(outside)]
    if ablations:
        lost = "Several variants lost and are no longer in the code; the [lab log](log.md) says which.\n"
        parts += ["## Ablations at equal training time\n", lost, ablation_table(ablations)]
    parts += ["## How it was measured\n", _setting(results)]
    return "\n".join(parts)


def _default(r: dict[str, Any], link: str) -> list[str]:
    """The sections of a set about the default: length, confidence, nearness to the training texts, examples."""
    parts = [
        "### By length\n",
        f"![token_f1 by length: the default above the nearest neighbour]({link}length.svg)\n",
        f"Mean `token_f1` of {label(r)} and of the nearest neighbour, with 95% intervals. Short "
        "texts often come back whole; of long ones, many of the words do.\n",
        bin_table(r, "length", "tokens"),
    ]
    if r.get("calibration"):
        errors = ", ".join(f"{part['ece']:.3f} for `{name}`" for name, part in r["calibration"].items())
        parts += [
            "### Can the confidence be trusted?\n",
            f"![Confidence against what came true]({link}calibration.svg)\n",
            "Each point is a group of texts of about the same confidence; its area is their share. On the line the "
            "confidence is right on average, above it too low, below it too high. Left for the share of right tokens "
            "(`confidence`), right for the probability that all are right (`p_exact`). Expected calibration error: "
            f"{errors}.\n",
        ]
    if "nearest_training_cosine" in r["bins"]:
        parts += [
            "### Near the training texts and far from them\n",
            "Texts grouped by the cosine of their vector to the nearest of "
            f"{r.get('neighbours', {}).get('n')} training texts:\n",
            bin_table(r, "nearest_training_cosine", "cosine"),
        ]
    if r.get("examples"):
        parts += ["### Examples, the first of the random subset\n", example_table(r["examples"])]
    return parts


def read_results(folder: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read the result files of a folder and its ablations.json (empty where absent)."""
    folder = Path(folder)
    results = []
    for path in sorted(folder.glob("*.json")):
        value = read_json(path)
        if isinstance(value, dict) and value.get("kind") in ("strategy", "baseline"):
            results.append(value)
    ablations = folder / "ablations.json"
    return results, read_json(ablations) if ablations.exists() else []


def write_page(folder: str | Path, path: str | Path) -> str:
    """Render `folder` to the Markdown file `path`, and write the CSV files into `folder`; return the text."""
    folder = Path(folder)
    results, ablations = read_results(folder)
    text = render(results, ablations)
    write_csv(folder / "runs.csv", [{**_named(r), **_spent(r), **r["metrics"]} for r in results])
    write_csv(folder / "bins.csv", [row for r in results for row in _bins(r)])
    if ablations:
        left = ("metrics", "overrides")
        rows = [{k: v for k, v in entry.items() if k not in left} | entry["metrics"] for entry in ablations]
        write_csv(folder / "ablations.csv", rows)
    atomic_write_bytes(path, text.encode())
    return text


def _named(r: dict[str, Any]) -> dict[str, Any]:
    default = "default" if r.get("default") else r["kind"]
    return {"set": r["data"]["name"], "kind": default, "run": r["name"], "checkpoint": r["checkpoint"]["sha256"][:8]}


def _spent(r: dict[str, Any]) -> dict[str, Any]:
    return {"n": r["data"]["n"], **{key: r.get(key) for key in ("lengths", "passes", "queries", "texts_per_second")}}


def _bins(r: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Every bin of a run: by length, by nearness to the training texts, by confidence."""
    for by, rows in r["bins"].items():
        for row in rows:
            yield {**_named(r), "by": by, "bin": row["bin"], "n": row["n"], **row.get("metrics", {})}
    for realised, part in r.get("calibration", {}).items():
        for row in part["bins"]:
            bounds = f"{row['low']:.1f}-{row['high']:.1f}"
            mean = {"mean_confidence": row["confidence"], realised: row["realised"]}
            yield {**_named(r), "by": f"confidence ({realised})", "bin": bounds, "n": row["n"], **mean}
