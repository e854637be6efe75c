"""Result files to Markdown: every number in docs/results.md comes from a JSON file through here.

- `render`: the whole page from a list of results and the ablations.
- `write_page`: the same from a folder of JSON files.
- `cell`: one metric with its interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unembed.errors import DataError
from unembed.files import atomic_write_bytes, read_json

MAIN = ("token_accuracy", "token_f1", "exact_match", "bleu", "cosine")
FURTHER = ("sentence_bleu", "rouge_l", "edit_similarity", "length_error")
BINNED = ("token_accuracy", "token_f1", "exact_match", "bleu")
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


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return str(value)


def _label(result: dict[str, Any]) -> str:
    name = f"`{result['name']}`"
    if result["kind"] == "baseline":
        return f"baseline: {name}"
    return f"**{name}** (default)" if result.get("default") else name


def _order(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort: the default, the other strategies by name, the baselines."""
    return sorted(results, key=lambda r: (r["kind"] == "baseline", not r.get("default"), r["name"]))


def main_table(results: Sequence[dict[str, Any]]) -> str:
    """What each run cost and what came back; one set."""
    header = ["run", "n", "lengths tried", "passes", "queries", *MAIN, "texts/s"]
    rows = []
    for r in _order(results):
        cost = [r["data"]["n"], r.get("lengths"), r.get("passes"), r.get("queries")]
        scores = [cell(name, r["metrics"].get(name)) for name in MAIN]
        rows.append([_label(r), *map(_number, cost), *scores, _number(r.get("texts_per_second"))])
    return table(header, rows)


def further_table(results: Sequence[dict[str, Any]]) -> str:
    """The other metrics, teacher-forced accuracy with its rates among them; one set."""
    forced = sorted({name for r in results for name in r["metrics"] if name.startswith("masked_token_accuracy@")})
    names = [*FURTHER, *forced]
    rows = [[_label(r), *(cell(name, r["metrics"].get(name)) for name in names)] for r in _order(results)]
    return table(["run", *names], rows)


def bin_table(result: dict[str, Any], which: str, title: str) -> str:
    """One run in bins (`which` is a key of its "bins")."""
    rows = [
        [row["bin"], str(row["n"]), *(cell(name, row.get("metrics", {}).get(name)) for name in BINNED)]
        for row in result["bins"][which]
    ]
    return table([title, "n", *BINNED], rows)


def calibration_table(part: dict[str, Any], realised: str) -> str:
    """Confidence against what was realised, in bins."""
    rows = [
        [f"{b['low']:.1f} to {b['high']:.1f}", str(b["n"]), f"{b['confidence']:.3f}", f"{b['realised']:.3f}"]
        for b in part["bins"]
    ]
    return table(["confidence", "n", "mean confidence", f"mean {realised}"], rows)


def left_out_table(results: Sequence[dict[str, Any]]) -> str:
    """Sets whose sources were left out of training, beside their nearest-neighbour baseline where it was run."""
    header = ["source left out", "run", "n", "lengths tried", "passes", "queries", *MAIN]
    rows = []
    for r in sorted(results, key=lambda r: r["data"]["name"]):
        cost = [r["data"]["n"], r.get("lengths"), r.get("passes"), r.get("queries")]
        scores = [cell(name, r["metrics"].get(name)) for name in MAIN]
        rows.append([r["data"]["name"], _label(r), *map(_number, cost), *scores])
    return table(header, rows, left=2)


def ablation_table(ablations: Sequence[dict[str, Any]]) -> str:
    """Experiments at equal wall-clock.

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
        names = list(dict.fromkeys(name for entry in entries for name in entry["metrics"]))
        rows = [
            [
                entry["name"],
                entry["setting"],
                *map(_number, (entry.get("minutes"), entry.get("seed"), entry.get("texts_seen"), entry.get("n"))),
                *(cell(name, entry["metrics"].get(name)) for name in names),
            ]
            for entry in entries
        ]
        parts.append(f"Variants of {title}:\n")
        parts.append(table(["experiment", "setting", "minutes", "seed", "texts seen", "n", *names], rows, left=2))
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


def _floors(results: Sequence[dict[str, Any]]) -> list[str]:
    """One line a set: the cosine of random pairs, from its largest run."""
    floors: dict[str, dict[str, Any]] = {}
    for r in sorted(results, key=lambda r: -r["data"]["n"]):
        if r.get("floors", {}).get("cosine"):
            floors.setdefault(r["data"]["name"], r)
    return [
        f"- floor of the cosine on {name} (random pairs of its texts, n = {r['data']['n']}): "
        + cell("cosine", r["floors"]["cosine"])
        for name, r in sorted(floors.items())
    ]


def _setting(results: Sequence[dict[str, Any]]) -> str:
    resamples = _unique(r["bootstrap"]["resamples"] for r in results)
    signature = _unique(r.get("bleu_signature") for r in results)
    lines = [
        f"- encoder: {_unique(r.get('encoder') for r in results)}",
        f"- checkpoint (sha256): {_unique(r.get('checkpoint', {}).get('sha256') for r in results)}",
        f"- machine: {_unique(r.get('machine', {}).get('summary') for r in results)}",
        f"- seed of texts, strategies and intervals: {_unique(r.get('seed') for r in results)}",
        f"- intervals: 95%, percentile bootstrap over texts, {resamples} resamples",
        f"- BLEU: {signature}; `sentence_bleu` is the mean over texts with `eff:yes`",
    ]
    default = next((r for r in results if r.get("default") and not r.get("left_out")), None)
    own = (default or {}).get("checkpoint", {}).get("sha256")
    older = [f"{r['data']['name']}: {r['name']}" for r in results if r.get("checkpoint", {}).get("sha256") != own]
    if default and older:
        lines.append(f"- **measured with another checkpoint than the default's** ({str(own)[:8]}): {_unique(older)}")
    lines += _floors([r for r in results if not r.get("left_out")])
    return "\n".join(lines) + "\n"


def render(results: Sequence[dict[str, Any]], ablations: Sequence[dict[str, Any]] = ()) -> str:
    """Build the results page.

    Args:
        results: files of the harness, any number of sets; those with "left_out": true go into the out-of-domain table.
        ablations: entries of docs/results/ablations.json.

    Returns:
        Markdown.

    Raises:
        DataError: there is no result.
    """
    if not results:
        raise DataError("There are no results to render.", "Run benchmarks/results.py first.")
    parts = [
        "# Results\n",
        "Made by `benchmarks/results.py` from the files in `docs/results`; no number here is typed.\n",
        "`token_accuracy` is decoded from all masks, position by position. `masked_token_accuracy@rate` is teacher "
        "forced: the other tokens and the length are given. They are two quantities. Higher is better, but for "
        "`length_error`.\n",
        _setting(results),
    ]
    inside = [r for r in results if not r.get("left_out")]
    for name in dict.fromkeys(r["data"]["name"] for r in inside):
        here = [r for r in inside if r["data"]["name"] == name]
        of = here[0]["data"].get("of")
        parts += [f"## {name}\n", f"Seeded subsets of the {of} texts of the set.\n", main_table(here)]
        parts += ["### Further metrics\n", further_table(here)]
        default = next((r for r in here if r.get("default")), None)
        shown = ([default] if default else []) + [r for r in here if r["name"] == "nearest-neighbour"]
        for r in shown:
            parts += [f"### {_label(r)} by length in tokens\n", bin_table(r, "length", "tokens")]
            if "nearest_training_cosine" in r["bins"]:
                note = r.get("neighbours", {})
                parts.append(
                    f"By cosine to the nearest of {note.get('n')} training texts (seeded, of {note.get('of')}):\n"
                )
                parts.append(bin_table(r, "nearest_training_cosine", "cosine"))
        for realised, part in (default or {}).get("calibration", {}).items():
            parts.append(f"### Calibration of the default: {realised}\n")
            parts += [f"Expected calibration error: {part['ece']:.3f}.\n", calibration_table(part, realised)]
        if default and default.get("examples"):
            parts += ["### Examples (the first of the seeded subset, not chosen)\n", example_table(default["examples"])]
    outside = [r for r in results if r.get("left_out")]
    if outside:
        parts += ["## Sources left out of training\n", left_out_table(outside), "\n".join(_floors(outside)) + "\n"]
    if ablations:
        parts += ["## Ablations at equal wall-clock\n", ablation_table(ablations)]
    return "\n".join(parts)


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
    """Render `folder` to the Markdown file `path`; return the text."""
    text = render(*read_results(folder))
    atomic_write_bytes(path, text.encode())
    return text
