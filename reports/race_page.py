"""The page and the figure of the race, from its JSON alone (benchmarks/experiments/race.py).

Contents: `write`, `page`, `figure`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unembed.evaluation.tables import write_csv
from unembed.files import atomic_path, atomic_write_bytes

COLUMNS = ("token_f1", "token_accuracy", "exact_match", "bleu")
INTRODUCTION = """\
# The race

<!-- Written by benchmarks/experiments/race.py. -->

What drafts best from a vector for the same training time: the default recipe, which fills masks and also learns to go
left to right; the network and objective of arXiv 2602.11047; or an autoregressive decoder with the vector as a prefix?
Each contestant has the same blocks (4 of width 256), tokenizer, texts, seed and wall-clock, preparation and compilation
included, on one core. Checkpoints are kept while they train and decoded afterwards; those before the end are averages
of weights whose learning rate has not come down yet. The default's own causal mode is its line "left to right".
"""
NOT_RUN = "\nThe race has not been run for this version; `python -m benchmarks.experiments.race` does it.\n"


def write(result: Path, page_path: Path) -> None:
    """Write the page, and the figure beside the JSON; without a JSON the page says so."""
    if not result.exists():
        atomic_write_bytes(page_path, (INTRODUCTION + NOT_RUN).encode())
        return
    race: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    picture = result.with_suffix(".svg")
    figure(race, picture)
    named = ("way", "seconds", "texts_seen", "end", "n", "passes", "milliseconds_per_text", "gflop_per_text")
    rows = [(entry["name"], row) for entry in race["contestants"] for row in entry["decoded"]]
    write_csv(
        result.with_suffix(".csv"),
        [{"contestant": name, **{key: row[key] for key in named}, **row["metrics"]} for name, row in rows],
    )
    atomic_write_bytes(page_path, page(race, f"results/{picture.name}").encode())


def page(race: dict[str, Any], picture: str) -> str:
    """Return the Markdown of the page."""
    n = {row["n"] for entry in race["contestants"] for row in entry["decoded"]}
    lines = [
        INTRODUCTION,
        f"{race['time']} each, seed {race['seed']}, {race['training_texts']:,} training texts to draw from, without "
        f"{' and '.join(race['left_out']) or 'leaving out any source'}; {'/'.join(map(str, sorted(n)))} texts of "
        f"`{race['data']['validation']}`; {race['machine']}; {race['side_by_side']} side by side. Brackets are 95% "
        "bootstrap intervals.",
        "",
        f"![token_f1 and BLEU over the training time, a line for each contestant and way of decoding]({picture})",
        "",
        f"The points of these curves, and all metrics of each: [race.csv]({Path(picture).with_suffix('.csv')}).",
        "",
        "## At the end",
        "",
        "| contestant | decoded by | " + " | ".join(COLUMNS) + " | passes | ms per text | GFLOP per text |",
        "|---|---|" + "---|" * (len(COLUMNS) + 3),
    ]
    for entry in race["contestants"]:
        for row in entry["decoded"]:
            if row["end"]:
                figures = " | ".join(_interval(row["metrics"][name], name) for name in COLUMNS)
                cost = f"{row['passes']:g} | {row['milliseconds_per_text']:g} | {row['gflop_per_text']:g}"
                lines.append(f"| {entry['name']} | {row['way']} | {figures} | {cost} |")
    lines += [
        "",
        "A pass of a left-to-right draft feeds one token; a pass of the others the whole text. A beam of 4 counts the",
        "passes of its 4 hypotheses. GFLOP are those of matrix products.",
        "",
        "## What training cost",
        "",
        "Parameters without the vocabulary (embedding and output bias); operations of matrix products, forward and",
        "backward, counted on real batches.",
        "",
        "| contestant | parameters | blocks | texts seen | steps | GFLOP per text | GFLOP in all | nats per token |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in race["contestants"]:
        if "train" not in entry or "cost" not in entry:
            continue
        train, cost = entry["train"], entry["cost"]
        total = cost["training_gflop_per_text"] * train["texts_seen"]
        parameters = cost["parameters"]
        lines.append(
            f"| {entry['name']} | {parameters['without_vocabulary'] / 1e6:.2f}M | {parameters['blocks'] / 1e6:.2f}M | "
            f"{train['texts_seen']:,} | {train['steps']:,} | {cost['training_gflop_per_text']:.3f} | {total:,.0f} | "
            f"{_losses(train['losses'])} |"
        )
    lines += ["", "## The contestants", ""]
    lines += [f"- **{entry['name']}**: {entry['about']}." for entry in race["contestants"]]
    return "\n".join(lines) + "\n"


def figure(race: dict[str, Any], path: Path) -> None:
    """Draw token_f1 and BLEU over the training time, one line a contestant and way, with intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9.6, 4.4), dpi=120, layout="constrained")
    FigureCanvasAgg(drawing)
    left, right = drawing.subplots(1, 2)
    for axes, metric in ((left, "token_f1"), (right, "bleu")):
        axes.set(xlabel="minutes of training", ylabel="BLEU" if metric == "bleu" else metric)
        axes.grid(alpha=0.3)
        for entry in race["contestants"]:
            for way in dict.fromkeys(row["way"] for row in entry["decoded"] if _in_curve(entry, row)):
                rows = sorted((r for r in entry["decoded"] if r["way"] == way), key=lambda r: r["seconds"])
                x = [row["seconds"] / 60 for row in rows]
                spans = [row["metrics"][metric] for row in rows]
                (line,) = axes.plot(x, [s["value"] for s in spans], marker="o", ms=3, label=f"{entry['name']}: {way}")
                axes.fill_between(
                    x, [s["low"] for s in spans], [s["high"] for s in spans], color=line.get_color(), alpha=0.12, lw=0
                )
        axes.set_ylim(bottom=0)
    handles = left.get_legend_handles_labels()
    if handles[0]:
        drawing.legend(*handles, loc="outside lower center", ncols=2, fontsize="small")
    with atomic_path(path) as part:
        drawing.savefig(part, format="svg", metadata={"Date": None})


def _in_curve(entry: dict[str, Any], row: dict[str, Any]) -> bool:
    return any(other["way"] == row["way"] and not other["end"] for other in entry["decoded"])


def _interval(span: dict[str, float], name: str) -> str:
    places = 1 if name == "bleu" else 3
    return f"{span['value']:.{places}f} [{span['low']:.{places}f}, {span['high']:.{places}f}]"


def _losses(losses: dict[str, Any]) -> str:
    named = (("bound", "bound"), ("causal_nll", "left to right"))
    return ", ".join(f"{label} {losses[key]:.2f}" for key, label in named if key in losses)
