"""Turn a run's checkpoint into the model that ships: calibrated confidence, small weights, licence and card.

    python -m scripts.ship --run runs/default/checkpoint --validation shards/validation --out src/unembed/weights/minilm

With --corrector or --student what `unembed train` made of recipes/corrector.toml or recipes/student.toml is put beside
the weights in --out, which it must have been trained beside, and nothing else is done; the checksum that results name
stays. With --decode-only the model in --out gets another default decode and its calibration; its weights stay.
The calibration is fitted on validation texts of the sources that were trained on, for the default strategy and for
those named by --strategies. The card's tables come from docs/results/*.json (run it again with --card-only).
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reports.results_page import read_results
from unembed.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unembed.checkpoint.corrector_file import CORRECTOR_FILE, corrector_notes, read_corrector
from unembed.checkpoint.student_file import STUDENT_FILE, read_student, write_student
from unembed.checkpoint.sums import list_files
from unembed.data.shards import ShardDataset
from unembed.evaluation.harness import fit_calibration
from unembed.evaluation.sets import EvaluationSet
from unembed.evaluation.tables import cell, table
from unembed.files import atomic_write_bytes, read_json, sha256_file, write_json
from unembed.inverter import Inverter

ROOT = Path(__file__).resolve().parent.parent
LIMIT_MIB = 64
FILE_MIB = 15
STORED = {"int8": "int8 by row", "int6": "matrices in 6 bits by row, the token prior in 4"}
SHOWN = ("token_f1", "token_accuracy", "exact_match", "bleu", "cosine")
_log = logging.getLogger("ship")


def check_size(folder: str | Path) -> None:
    """End with an error where a model, or one file of it, is larger than may ship."""
    sizes = {path.name: path.stat().st_size / 2**20 for path in Path(folder).iterdir()}
    size = sum(sizes.values())
    _log.info("%s holds %.1f MiB", folder, size)
    if size > LIMIT_MIB:
        raise SystemExit(f"The model holds {size:.1f} MiB, more than {LIMIT_MIB}.")
    largest = max(sizes, key=sizes.__getitem__)
    if sizes[largest] > FILE_MIB:
        raise SystemExit(f"{largest} holds {sizes[largest]:.1f} MiB, more than {FILE_MIB}.")


def calibrate(inverter: Inverter, checkpoint: Checkpoint, args: argparse.Namespace) -> dict[str, Any]:
    """Fit the confidence of the default decode, and of the strategies named, on validation texts trained on none."""
    dataset = ShardDataset(args.validation)
    excluded = checkpoint.recipe["data"]["exclude_sources"]
    names = dataset.source_names
    rows = np.flatnonzero([names[i] not in excluded for i in np.asarray(dataset.sources)])
    chosen = np.sort(np.random.default_rng(args.seed).choice(rows, args.n, replace=False))
    ids, lengths, vectors = dataset.gather(chosen)
    data = EvaluationSet("validation", [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)], vectors)
    calibration: dict[str, Any] = {}
    inverter.model.defaults = json.loads(args.decode)
    default = inverter.resolve({}).strategy
    for strategy in dict.fromkeys([default, *args.strategies]):
        fitted = fit_calibration(inverter, data.ids, data.vectors, strategy=strategy)
        calibration[strategy] = fitted.to_dict()
        _log.info("calibrated %s on %d texts", strategy, args.n)
    return calibration


def set_default(folder: Path, args: argparse.Namespace) -> None:
    """Give a model another default decode, calibrated; its weights stay, and so does the student beside them."""
    checkpoint = load_checkpoint(folder)
    inverter = Inverter.from_pretrained(folder)
    calibration = calibrate(inverter, checkpoint, args)
    config, student = read_json(folder / "config.json"), folder / "student.json"
    write_json(folder / "calibration.json", {**(checkpoint.calibration or {}), **calibration})
    config["notes"] |= {"decode": inverter.model.defaults, "calibration_texts": args.n}
    config["files"]["calibration.json"] = sha256_file(folder / "calibration.json")
    write_json(folder / "config.json", config)
    list_files(folder, "config.json", "calibration.json")
    if student.exists() and (told := read_json(student))["checkpoint"] == checkpoint.sha256:
        write_json(student, {**told, "checkpoint": sha256_file(folder / "config.json")})
        list_files(folder, student.name)


def ship(args: argparse.Namespace) -> None:
    """Calibrate and store."""
    checkpoint = load_checkpoint(args.run)
    inverter = Inverter.from_pretrained(args.run)
    calibration = calibrate(inverter, checkpoint, args)
    notes = {
        **checkpoint.notes,
        "calibration_texts": args.n,
        "weights_licence": "CC BY-SA 4.0",
        "decode": inverter.model.defaults,
        "history": args.history,
    }
    save_checkpoint(
        args.out,
        checkpoint.denoiser,
        checkpoint.tokenizer_json,
        checkpoint.identity,
        checkpoint.recipe,
        calibration,
        notes,
        dtype="int6",
    )
    check_size(args.out)


def add_corrector(folder: Path, file: str) -> None:
    """Put a corrector beside the weights that it was trained beside."""
    checkpoint = load_checkpoint(folder)
    corrector = read_corrector(file, checkpoint.denoiser, checkpoint.weights)
    atomic_write_bytes(folder / CORRECTOR_FILE, Path(file).read_bytes())
    list_files(folder, CORRECTOR_FILE)
    parameters = sum(p.numel() for p in corrector.parameters())
    _log.info("%s: a corrector of %d parameters", folder, parameters)
    check_size(folder)


def add_student(folder: Path, path: str) -> None:
    """Put a student beside the weights that it was trained beside; calibrating them anew does not part the two."""
    checkpoint, told = load_checkpoint(folder), read_json(Path(path) / "student.json")
    file = read_student(path, told["checkpoint"])
    if file is None or checkpoint.weights != file.notes.get("base"):
        raise SystemExit(f"{path} holds no student that was trained beside the weights in {folder}.")
    write_student(folder, file, checkpoint.sha256)
    _log.info("%s: a student of %d parameters", folder, sum(p.numel() for p in file.student.parameters()))
    check_size(folder)


def _attribution() -> str:
    with open(ROOT / "docs" / "sources.tsv", encoding="utf-8", newline="") as stream:
        rows = [r for r in csv.DictReader(stream, delimiter="\t") if r["language"] == "en"]
    body = [[r["source"], r["repository"].replace("|", "/"), r["licence as stated by the repository"]] for r in rows]
    return table(["source", "repository", "licence as stated there"], body)


def _history(facts: dict[str, Any]) -> str:
    """What a student or a corrector began from, in words."""
    begun = facts.get("begun")
    if begun:
        steps = f" of {begun['steps']:,} steps" if begun.get("steps") else ""
        return f"; began from one{steps} beside other weights"
    return f"; {facts['history']}" if facts.get("history") else ""


def card(folder: Path) -> str:
    """Write the model card from the checkpoint's notes and the result files."""
    config = read_json(folder / "config.json")
    recipe = read_json(folder / "recipe.json")
    identity = read_json(folder / "encoder.json")
    notes, shape = config["notes"], config["denoiser"]
    results, _ = read_results(ROOT / "docs" / "results")
    own = sha256_file(folder / "config.json")
    measured = [r for r in results if r["kind"] == "baseline" or r.get("checkpoint", {}).get("sha256") == own]
    shown = [r for r in measured if r.get("default") or r["kind"] == "baseline"]
    lines = [
        [r["data"]["name"], r["name"], str(r["data"]["n"]), *(cell(m, r["metrics"].get(m)) for m in SHOWN)]
        for r in shown
    ]
    size = sum(p.stat().st_size for p in folder.iterdir() if p.suffix != ".md") / 2**20
    parameters = notes["parameters"]
    corrector = ""
    if (folder / CORRECTOR_FILE).is_file():
        facts = corrector_notes(folder / CORRECTOR_FILE)
        corrector = (
            f"| corrector | `{CORRECTOR_FILE}`, {(folder / CORRECTOR_FILE).stat().st_size / 2**20:.1f} MiB: "
            f"{facts.get('texts_seen', facts.get('texts')):,} pairs seen in {facts['steps']:,} steps, "
            f"{facts['seconds'] / 60:.0f} minutes{_history(facts)} |\n"
        )
    if (folder / STUDENT_FILE).is_file():
        facts = read_json(folder / "student.json")["notes"]
        cosine = facts.get("metrics", {}).get("cosine", facts.get("cosine_on_1000_validation_texts"))
        corrector += (
            f"| student encoder | `{STUDENT_FILE}`, {(folder / STUDENT_FILE).stat().st_size / 2**20:.1f} MiB: "
            f"{facts['texts_seen']:,} texts seen of {facts['texts']:,} and {facts['pairs']:,} pairs, "
            f"{facts['seconds'] / 60:.0f} minutes; cosine to the encoder {cosine:.2f} on validation texts"
            f"{_history(facts)} |\n"
        )
    return f"""# unembed-minilm

Recovers text from vectors of **all-MiniLM-L6-v2** ({identity["dimension"]} dimensions): English, lower case, texts of up to
{shape["limit"]} tokens. `unembed invert` uses it when nothing else is said.

| | |
|---|---|
| network | {shape["layers"]} blocks of width {shape["width"]}, {shape["heads"]} heads; {parameters["blocks"]:,} parameters in blocks, {parameters["total"]:,} in all |
| stored | {STORED[config["dtype"]]}, {size:.1f} MiB |
| encoder | {identity["name"]}, revision {identity["revision"]} |
| training | {notes["texts_seen"]:,} texts seen in {notes["steps"]:,} steps, {notes["seconds"] / 60:.0f} minutes of a CPU; the row below says from which weights |
| recipe | `recipe.json` beside this file; seed {recipe["run"]["seed"]}{("; " + notes["history"]) if notes.get("history") else ""} |
| default decode | `{json.dumps(notes["decode"])}` |
| confidence | calibrated on {notes["calibration_texts"]:,} validation texts |
| licence of the weights | {notes["weights_licence"]} (the strictest of the sources below asks for sharing alike) |
{corrector}
## Results

95% bootstrap intervals; the settings, bins by length and all other strategies are in `docs/results.md`.

{table(["set", "strategy or baseline", "n", *SHOWN], lines)}

## Limits

- It knows what its training texts are like: fiction, dialogue, textbooks, documentation, government pages. On other
  domains it recovers less (the sets left out of training above).
- Texts longer than {shape["limit"]} tokens were cut before they were embedded in training; vectors of longer texts give a
  summary of a sort, not the text.
- The encoder lower-cases, so case is never recovered. Numbers and names are the first to be wrong.
- Text is a guess. A high cosine or a fluent sentence is no proof of a right one.

## Responsible use

Invert vectors that are yours or that you were asked to test; see `docs/responsible-use.md`.

## Training data and attribution

Public text under licences that allow use and redistribution. The sources {", ".join(recipe["data"]["exclude_sources"])} were
left out of training.

{_attribution()}"""


def main() -> None:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="checkpoint folder of a run")
    parser.add_argument("--validation", help="validation shards")
    parser.add_argument("--out", default=str(ROOT / "src" / "unembed" / "weights" / "minilm"))
    parser.add_argument(
        "--decode", default="{}", help="the default decode as JSON, chosen by benchmarks/experiments/choose.py"
    )
    parser.add_argument("--history", default="", help="what the recipe does not say about the run, for the card")
    parser.add_argument("--strategies", nargs="*", default=[], help="calibrate these too")
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--corrector", help="a corrector's file: put it beside the model in --out, no more")
    parser.add_argument("--student", help="folder of a student: put it beside the model in --out, no more")
    parser.add_argument("--decode-only", action="store_true", help="give the model in --out the --decode, no more")
    parser.add_argument("--card-only", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.corrector:
        add_corrector(Path(args.out), args.corrector)
    elif args.student:
        add_student(Path(args.out), args.student)
    elif args.decode_only:
        set_default(Path(args.out), args)
    elif not args.card_only:
        ship(args)
    path = Path(args.out) / "README.md"
    if path.is_file() or not (args.corrector or args.student):  # a base that was not shipped has no card
        atomic_write_bytes(path, card(Path(args.out)).encode())
        list_files(args.out, path.name)


if __name__ == "__main__":
    main()
