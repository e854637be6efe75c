"""docs/paper.md: our figures beside those of arXiv 2602.11047, made from the file of cells alone.

- `render`: the page from the values that `reproduction.Reproduction` keeps.
- `write_page`: the same from the file, with figure 2 and a CSV file of every cell beside it.
- `read_curve`: what figure 2 needs of a training log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unembed.evaluation import paper_facts as paper
from unembed.evaluation.reproduction import PAPER_STRATEGIES, RATE
from unembed.evaluation.tables import cell, dynamics, read_log, table, write_csv
from unembed.files import PRIVATE, atomic_write_bytes, read_json
from unembed.training.recipes.recipe import RENAMED

FIGURE = "paper-dynamics.svg"
_MASKED = f"masked_token_accuracy@{RATE:g}"
_SCORES = (_MASKED, "token_accuracy", "token_f1", "exact_match", "bleu", "cosine")
_COST = ("n", "passes", "queries", "ms per text")
Cells = Mapping[str, Mapping[str, Any]]


def read_curve(path: str | Path) -> list[dict[str, float]]:
    """Read the validations of a training log: step, texts, seconds, bound, and token_accuracy where decoded."""
    keys = ("step", "texts", "seconds", "bound", "causal_nll")
    rows = []
    for line in read_log(path):
        if line.get("kind") == "validation":
            row = {key: float(line[key]) for key in keys if key in line}
            for name, value in line.items():
                if name.endswith("/token_accuracy") and isinstance(value, (int, float)):
                    row[name] = float(value)
            rows.append(row)
    return rows


def write_page(values_path: str | Path, page: str | Path) -> str:
    """Render the file of cells to a Markdown file and draw figure 2 beside the cells; return the text."""
    values = read_json(values_path)
    if values.get("logs"):
        dynamics(values["logs"], Path(values_path).parent / FIGURE)
    table_path = Path(values_path).with_suffix(".csv")
    write_csv(table_path, _flat(values["cells"]))
    text = render(values, _link(Path(values_path).parent, Path(page).parent), table_path.name)
    atomic_write_bytes(page, text.encode(), PRIVATE)  # it holds examples
    return text


def _flat(cells: Cells) -> Iterable[dict[str, Any]]:
    """Every cell that was scored, with its cost and metrics."""
    for key, row in cells.items():
        if "metrics" in row and "data" in row:
            cost = {name: row[name] for name in ("passes", "queries", "seconds")}
            yield {"cell": key, "n": row["data"]["n"], **cost, **row["metrics"]}


def _link(folder: Path, page: Path) -> str:
    try:
        return f"{folder.resolve().relative_to(page.resolve()).as_posix()}/"
    except ValueError:
        return f"{folder.as_posix()}/"


def _scores(row: Mapping[str, Any], names: Iterable[str] = _SCORES) -> list[str]:
    return [cell(name, row["metrics"].get(name)) for name in names]


def _cost(row: Mapping[str, Any]) -> list[str]:
    spent = 1000 * row["seconds"] / row["data"]["n"]
    return [str(row["data"]["n"]), f"{row['passes']:.1f}".removesuffix(".0"), f"{row['queries']:g}", f"{spent:.0f}"]


def _floor(row: Mapping[str, Any]) -> str:
    return cell("cosine", row.get("floors", {}).get("cosine"))


def _differs(model: Mapping[str, Any]) -> str:
    """What of a model differs from the paper's: encoder, network, data, compute."""
    config = model["config"]
    hours = "unknown hours" if model.get("seconds") is None else f"{model['seconds'] / 3600:.2f} h"
    texts = "unknown texts" if model.get("texts_seen") is None else f"{model['texts_seen']:,} texts"
    return (
        f"{model['encoder'].rsplit('/', 1)[-1]}; {config['layers']} x {config['width']}, {config['backbone']}, "
        f"vocabulary {model['vocabulary']:,}; {texts}, {hours} of training"
    )


def _encoders(values: Mapping[str, Any]) -> str:
    rows = []
    for name, model in values["models"].items():
        row = values["cells"].get(f"strategy/{name}/sequential")
        if model["role"] != "model" or row is None:
            continue
        facts = [model.get("steps") or "-", cell("bound", model.get("bound")), f"{model['vocabulary']:,}"]
        rows.append([f"**{name}**", *_cost(row), *_scores(row), *map(str, facts), str(model["dimension"])])
    for fact in paper.ENCODERS:
        blank = ["-"] * len(_COST)
        given = [f"{fact['masked']:.3f}", *["-"] * (len(_SCORES) - 1)]
        facts = [fact["steps"], f"{fact['loss']:.2f}", f"{fact['vocab']:,}", str(fact["dim"])]
        rows.append([f"paper: {fact['encoder']}", *blank, *given, *facts])
    return table(["encoder", *_COST, *_SCORES, "steps", "bound (nats)", "vocabulary", "dimension"], rows)


def _strategies(values: Mapping[str, Any]) -> str:
    names = [name for name, model in values["models"].items() if model["role"] == "model"]
    rows = []
    for strategy in [*PAPER_STRATEGIES, "default"]:
        theirs = ", ".join(f"{value:.3f}" for value in paper.COSINES.get(strategy, ())) or "-"
        for name in names:
            row = values["cells"].get(f"strategy/{name}/{strategy}")
            if row is not None:
                label = f"`{strategy}`" if strategy != "default" else f"`{row['strategy']}` (its default then)"
                rows.append([label, f"**{name}**", *_cost(row), *_scores(row, _SCORES[1:]), _floor(row), theirs])
    last = f"the paper's cosine: {', '.join(paper.COSINE_ENCODERS)}"
    return table(["strategy", "encoder", *_COST, *_SCORES[1:], "cosine of random pairs", last], rows, left=2)


def _remasking(cells: Cells) -> str:
    """Ours with 8 and 32 passes beside the paper's figure, for each metric that the paper gives."""
    names, header, rows = ("token_accuracy", "cosine", "bleu"), ["re-mask probability"], []
    for name in names:
        header += [f"{name}, 8 passes", "32 passes", "paper"]
    for probability, (accuracy, cosine, bleu) in paper.REMASKING.items():
        line = [f"{probability:.2f}"]
        for name, theirs in zip(names, (f"{accuracy:.3f}", f"{cosine:.2f}", f"{bleu:.1f}"), strict=True):
            ours = [cells.get(f"remask/{passes}/{probability}") for passes in (8, 32)]
            line += [*(cell(name, row["metrics"].get(name) if row else None) for row in ours), theirs]
        rows.append(line)
    return table(header, rows)


def _hyper_parameters(recipes: Mapping[str, Any]) -> str:
    rows = []
    for key, value in paper.HYPER_PARAMETERS.items():
        part, _, name = key.partition(".")
        names = {name, *(old for (_, old), new in RENAMED.items() if new == name)}  # of the file, which may be older
        found = ([r[part][one] for one in names if one in r.get(part, {})] for r in recipes.values())
        rows.append([f"`{key}`", str(value), *(str((one or ["-"])[0]) for one in found)])
    return table(["key", "paper", *(f"`{name}`" for name in recipes)], rows)


def _milestones(values: Mapping[str, Any]) -> str:
    rows = []
    ours = [(m.get("texts_seen") or 0, n, m) for n, m in values["models"].items() if m["role"] == "milestone"]
    for texts, name, model in sorted(ours, key=lambda item: item[:2]):
        row = values["cells"].get(f"milestone/{name}")
        if row is not None:
            at = [f"**{name}**", str(model.get("steps") or "-"), f"{texts:,}"]
            rows.append([*at, *_cost(row), *_scores(row)])
    for steps, (masked, exact, cosine, bleu) in paper.MILESTONES.items():
        texts = int(steps.removesuffix("K")) * 1000 * paper.HYPER_PARAMETERS["data.batch_size"]
        given = [f"{masked:.3f}", "-", "-", f"{exact:.3f}", f"{bleu:.1f}", f"{cosine:.2f}"]
        rows.append(["paper: jina-v3", steps, f"{texts:,}", *["-"] * len(_COST), *given])
    return table(["run", "steps", "texts seen", *_COST, *_SCORES], rows)


def _sentence(cells: Cells) -> str:
    rows = []
    for strategy in [*PAPER_STRATEGIES, "default"]:
        found = cells.get(f"sentence/{strategy}")
        if found is not None:
            label = f"`{strategy}`" if strategy != "default" else f"`{found['strategy']}` (its default then)"
            row = found["rows"][0]
            theirs = paper.EXAMPLE_COSINES.get(strategy)
            end = [f"{row['passes']}", f"{row['cosine']:.2f}", "-" if theirs is None else f"{theirs:.2f}"]
            rows.append([label, row["text"], *end])
    return table(["strategy", "recovered text", "passes", "cosine", "paper's cosine (jina-v3)"], rows, left=2)


def _languages(values: Mapping[str, Any]) -> list[str]:
    """One row a language: sequential decoding as in the paper's tables, and its first text."""
    parts = []
    names = [name for name, model in values["models"].items() if model["role"] == "multilingual"]
    metrics = ("token_accuracy", "token_f1", "cosine")
    header = ["language", "text", "recovered text", *_COST, *metrics, "cosine of random pairs"]
    for name in names:
        rows = []
        for key, row in values["cells"].items():
            _, found, language = key.removesuffix("/sequential").rpartition(f"language/{name}/")
            if found and key.endswith("/sequential"):
                example = values["cells"].get(f"language-example/{name}/{language}", {"rows": []})["rows"][:1]
                texts = [part[field] for part in example for field in ("original", "text")] or ["-", "-"]
                rows.append([language, *texts, *_cost(row), *_scores(row, metrics), _floor(row)])
        parts += [f"### {name}: {_differs(values['models'][name])}\n", table(header, rows, left=3)]
    if not names:
        parts.append(
            "Not measured: no multilingual encoder was at hand. The command makes these tables when it is given one: "
            "`--multilingual NAME=CHECKPOINT --languages FILE.tsv`.\n"
        )
    return parts


def _baselines(cells: Cells) -> str:
    facts = {"random-tokens": paper.RANDOM_TOKENS, "unconditional": paper.UNCONDITIONAL}
    names = ("token_accuracy", "token_f1", "exact_match", "bleu", "cosine")
    rows = []
    for key, row in cells.items():
        if key.startswith("baseline/"):
            theirs = facts.get(row["name"])
            rows.append(
                [f"`{row['name']}`", *_cost(row), *_scores(row, names), "-" if theirs is None else f"{theirs:.4f}"]
            )
    if not rows:
        return "Not measured: `--train` names no training shards.\n"
    return table(["baseline", *_COST, *names, "paper's accuracy"], rows)


def _head(values: Mapping[str, Any]) -> list[str]:
    cells = [row for row in values["cells"].values() if "data" in row]
    sets = sorted({(row["data"]["name"], row["data"]["n"], row["data"]["of"]) for row in cells})
    said = ", ".join(f"{name} (n = {n} of {of})" for name, n, of in sets if not name.count(" "))
    machines = sorted({row["machine"] for row in values["cells"].values()})
    lines = [
        "# The paper's tables, measured here\n",
        "`unembed reproduce` measures what the tables of [arXiv:2602.11047](https://arxiv.org/abs/2602.11047) show, "
        "with models of this repository, and sets it beside the figures that the paper prints (v1). Encoders, data and "
        "compute differ, so compare the strategies within a model rather than a row of ours with one of the paper's.\n",
        f"Our rows: {said}; 95% bootstrap intervals, seed {cells[0]['seed'] if cells else '-'}; "
        f"{'; '.join(machines)}.\n",
        f"`{_MASKED}` is what the paper calls token accuracy in its tables 1 and 5: {RATE:.0%} of a text is masked, "
        "and the rest and the length are shown. `token_accuracy` is decoded from masks alone, the length included; "
        "only it says what comes back from a vector. `ms per text` is wall-clock time on this machine, which may have "
        "had other work to do.\n",
        "The models:\n",
    ]
    lines += [f"- **{name}**: {_differs(model)}." for name, model in values["models"].items()]
    lines.append(f"- the paper's: 8 x 768, 78M parameters; {paper.COST['training']} on one A100.\n")
    lines += [f"{text}\n" for text in values.get("notes", [])]
    return lines


def render(values: Mapping[str, Any], link: str = "results/", every: str = "paper.csv") -> str:
    """Render the page; `link` is the way from it to the folder of the figures, `every` the CSV file there."""
    cells: Cells = values["cells"]
    two_stage = next((row for key, row in cells.items() if key.endswith("/two-stage")), None)
    parts = [
        *_head(values),
        f"All cells with all their metrics, also those that these tables leave out: [{every}]({link}{every}).\n",
        "## Table 1: encoders, sequential greedy decoding\n",
        _encoders(values),
        "## Table 2: strategies and encoders\n",
        "The paper's cosine is the mean over one sentence in ten languages, ours that over the texts named above.\n",
        _strategies(values),
        "## Table 3: re-masking probability of Euler\n",
        _remasking(cells),
    ]
    if two_stage is not None:
        ours = cell("exact_match", two_stage["metrics"].get("exact_match"))
        parts.append(f"Exact match of two-stage: ours {ours}, the paper's {paper.TWO_STAGE_EXACT:.3f}.\n")
    parts += ["## Table 4: hyper-parameters\n", _hyper_parameters(values.get("recipes", {}))]
    parts += ["## Table 5: milestones, sequential greedy decoding\n", _milestones(values)]
    parts += ["## Table 6: one sentence\n", f"Input: “{paper.SENTENCE}”\n", _sentence(cells)]
    parts += ["## Tables 7 to 9: other languages, sequential greedy decoding\n", *_languages(values)]
    if values.get("logs"):
        parts += ["## Figure 2: training dynamics\n", f"![Validation over training]({link}{FIGURE})\n"]
    parts += ["## Baselines\n", _baselines(cells)]
    parts += [
        "## Not measured\n",
        "- Perplexity under GPT-2: its weights cannot be had offline, and nothing here stands in for it.",
        f"- The paper's cost on an A100 ({paper.COST['sequential']}; {paper.COST['euler']}): no A100 was at hand; "
        "`ms per text` is this machine's.\n",
    ]
    return "\n".join(parts)
