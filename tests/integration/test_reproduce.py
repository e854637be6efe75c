"""`unembed reproduce` on tiny models: every table, kept cells, other languages with a local encoder, mistakes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

from tests.helpers.tiny import save_tiny
from unembed.cli import main
from unembed.encoders.hashing import HashingEncoder
from unembed.encoders.registry import load_encoder
from unembed.evaluation import paper_facts, paper_page
from unembed.files import read_json, write_json

TEXTS = [f"the {a} {b} near the {c}" for a in ("old", "red") for b in ("house", "boat", "cat") for c in ("tree", "sea")]
SPOKEN = {
    "en": ["the ship sails in the morning", "we drink tea at home", "the road is long"],
    "de": ["das schiff fährt am morgen", "wir trinken tee zu hause", "die straße ist lang"],
    "es": ["el barco sale por la mañana", "tomamos té en casa", "el camino es largo"],
    "ru": ["корабль отходит утром", "мы пьём чай дома", "дорога длинная"],
    "zh": ["船 早上 出发", "我们 在 家 喝 茶", "路 很 长"],
    "ar": ["تبحر السفينة في الصباح", "نشرب الشاي في البيت", "الطريق طويل"],
}


def untrained(folder: Path, encoder: HashingEncoder, seed: int = 0) -> Path:
    """A checkpoint whose network has learnt nothing: what is tested is what is done with it."""
    notes = {"steps": 5 + seed, "texts_seen": 100 * (seed + 1), "seconds": 3.0, "metrics": {"bound": 4.5}}
    shape = {"width": 32, "prefix_tokens": 1, "causal": False}
    return save_tiny(folder, encoder, recipe={"model": {"layers": 1}}, notes=notes, seed=seed, **shape)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, shards, two checkpoints of one run and its log."""
    folder = tmp_path_factory.mktemp("reproduce")
    (folder / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    encoder = HashingEncoder(32)
    for seed in (0, 1):
        untrained(folder / f"run{seed}", encoder, seed)
    embedded = ["embed", str(folder / "texts.txt"), "--shards", str(folder / "shards"), "--encoder", "hashing:32"]
    assert main([*embedded, "--limit", "8", "--quiet"]) == 0
    lines = [
        {"kind": "train", "step": 1, "texts": 10, "loss": 9.0},
        {"kind": "validation", "step": 3, "texts": 30, "seconds": 1.0, "bound": 8.0},
        {"kind": "validation", "step": 5, "texts": 50, "seconds": 2.0, "bound": 7.0, "adaptive/token_accuracy": 0.1},
    ]
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return folder


def reproduce(place: Path, *more: str) -> int:
    base = ["reproduce", str(place / "texts.txt"), "--model", f"tiny={place / 'run0'}", "-n", "6", "--quiet"]
    paths = ["--out", str(place / "out" / "paper.json"), "--page", str(place / "out" / "paper.md")]
    return main([*base, *paths, *more])


def test_the_page_holds_every_table_and_cells_are_not_run_twice(place: Path) -> None:
    options = ["--train", str(place / "shards"), "--log", f"tiny={place / 'log.jsonl'}"]
    options += ["--milestone", f"early={place / 'run0'}", "--milestone", f"late={place / 'run1'}"]
    assert reproduce(place, *options) == 0
    values = read_json(place / "out" / "paper.json")
    cells = values["cells"]
    for strategy in ("sequential", "euler", "euler-remask", "two-stage", "default"):
        assert {"metrics", "passes", "queries", "seconds", "stamp"} <= set(cells[f"strategy/tiny/{strategy}"])
    assert {"baseline/random-tokens", "baseline/unconditional", "baseline/nearest-neighbour"} <= set(cells)
    assert {"milestone/early", "milestone/late", "remask/8/0.05", "sentence/two-stage"} <= set(cells)
    sequential = cells["strategy/tiny/sequential"]["metrics"]
    assert {"masked_token_accuracy@0.1", "token_accuracy"} <= set(sequential)
    assert sequential["token_accuracy"]["low"] <= sequential["token_accuracy"]["value"]
    nearest = cells["baseline/nearest-neighbour"]["metrics"]["exact_match"]["value"]
    assert nearest == 1.0, "the texts stand in the shards"

    page = (place / "out" / "paper.md").read_text(encoding="utf-8")
    for title in ("Table 1", "Table 2", "Table 3", "Table 4", "Table 5", "Table 6", "Tables 7 to 9", "Figure 2"):
        assert f"## {title}" in page
    early, late = page.index("| **early** |"), page.index("| **late** |")
    assert early < late < page.index("| paper: jina-v3 | 10K |"), "milestones are sorted by texts seen"
    shown = f"{sequential['token_accuracy']['value']:.3f} [{sequential['token_accuracy']['low']:.3f}, "
    assert shown in page
    with (place / "out" / "paper.csv").open(newline="") as file:
        kept = {row["cell"]: row for row in csv.DictReader(file)}
    assert set(kept) == {key for key, cell in cells.items() if "metrics" in cell}
    assert kept["strategy/tiny/sequential"]["token_accuracy"] == f"{sequential['token_accuracy']['value']:.6g}"
    assert "<svg" in (place / "out" / paper_page.FIGURE).read_text(encoding="utf-8")

    before = {name: cell.get("seconds") for name, cell in cells.items()}
    assert reproduce(place, *options) == 0
    after = read_json(place / "out" / "paper.json")["cells"]
    assert before == {name: cell.get("seconds") for name, cell in after.items()}, "a kept cell was run again"
    assert reproduce(place, *options, "--seed", "1") == 0
    assert read_json(place / "out" / "paper.json")["cells"]["strategy/tiny/euler"]["stamp"]["seed"] == 1


def test_nothing_of_a_checkout_is_written_unless_told(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Docs of the folder where the command runs stay as they are; a page that stands beside the cells too."""
    monkeypatch.chdir(tmp_path)
    for name in ("docs/paper.md", "docs/results/paper.json", "kept.md"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")
    run = ["reproduce", str(place / "texts.txt"), "--model", f"tiny={place / 'run0'}", "-n", "2", "--quiet"]
    assert main([*run, "--out", "kept.json"]) == 2 and "There is a kept.md" in capsys.readouterr().err
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(run) == 0
    new = {path.as_posix() for path in Path().rglob("*") if path.is_file()} - {path.as_posix() for path in before}
    assert all(name.startswith("reproduction/") for name in new) and "reproduction/paper.md" in new
    assert all(path.read_bytes() == content for path, content in before.items())


def test_every_row_of_ours_has_n_cost_and_intervals(place: Path) -> None:
    assert reproduce(place) == 0
    page = paper_page.render(read_json(place / "out" / "paper.json"))
    rows = [line for line in page.splitlines() if re.match(r"\| (\*\*tiny\*\*|`.*\| \*\*tiny\*\*)", line)]
    assert len(rows) >= 1 + 5
    for row in rows:
        assert row.count("[") >= 4, row
        assert re.search(r"\| 6 \| \d", row), row
    remasked = page.split("## Table 3")[1].split("## ")[0]
    assert all(line.count("[") == 6 for line in remasked.splitlines() if line.startswith("| 0."))


def test_the_papers_figures_are_the_papers() -> None:
    """The page shows them as the paper prints them: the second accuracy of the paper is not its first."""
    assert paper_facts.REMASKING[0.05] == (0.678, 0.82, 42.1)
    assert [fact["masked"] for fact in paper_facts.ENCODERS] == [0.813, 0.788, 0.760]
    assert paper_facts.MILESTONES["200K"][0] == 0.712 < paper_facts.ENCODERS[-1]["masked"]


def polyglot(folder: Path) -> Path:
    """A small random BERT with a vocabulary of six languages, as a sentence-transformers folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    backend = tokenizers.BertWordPieceTokenizer(lowercase=True, strip_accents=False)
    lines = [line for texts in SPOKEN.values() for line in texts]
    backend.train_from_iterator(lines, vocab_size=400, min_frequency=1, show_progress=False)
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = BertTokenizerFast(tokenizer_object=backend._tokenizer, model_max_length=64)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=48, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    SentenceTransformer(modules=[Transformer(str(folder / "bert")), Pooling(48)], device="cpu").save(
        str(folder / "polyglot")
    )
    return folder / "polyglot"


@pytest.mark.slow
def test_other_languages_with_a_local_encoder_that_was_trained_for(place: Path, tmp_path: Path) -> None:
    lines = [f"{language}\twritten here\t{text}" for language, texts in SPOKEN.items() for text in texts]
    (tmp_path / "spoken.tsv").write_text("\n".join(lines), encoding="utf-8")
    name = str(polyglot(tmp_path))
    assert load_encoder(name).dimension == 48
    embed = ["embed", str(tmp_path / "spoken.tsv"), "--shards", str(tmp_path / "shards"), "--encoder", name]
    assert main([*embed, "--limit", "16", "--quiet"]) == 0
    recipe = Path(__file__).parents[2] / "recipes" / "tiny.toml"
    settings = [f"data.encoder={name}", f"data.shards={tmp_path / 'shards'}", "data.limit=16", "data.batch_size=18"]
    settings += [
        "run.steps=300",
        "run.max_time=''",
        "run.horizon=steps",
        "optimizer.lr=5e-3",
        "optimizer.warmup=10",
        "optimizer.ema=0.9",
        "data.max_texts=0",
    ]
    settings += [
        "model.layers=2",
        "model.width=64",
        "model.heads=2",
        "model.embedding_dim=0",
        "validation.texts=4",
        "validation.decoded=0",
        "run.compile=no",
    ]
    settings += ["objective.causal_share=0.0", "objective.shortlist_frequent=0", "model.token_prior=false"]
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--quiet", *arguments]) == 0
    spoken = ["--multilingual", f"stand-in={tmp_path / 'run' / 'checkpoint'}", "--encoder", f"stand-in={name}"]
    assert reproduce(place, *spoken, "--languages", str(tmp_path / "spoken.tsv"), "--per-language", "3") == 0
    values = read_json(place / "out" / "paper.json")
    scores = {
        language: values["cells"][f"language/stand-in/{language}/sequential"]["metrics"]["token_f1"]["value"]
        for language in SPOKEN
    }
    assert np.mean(list(scores.values())) > 0.5, scores
    page = (place / "out" / "paper.md").read_text(encoding="utf-8")
    assert "### stand-in" in page
    assert "| ru | корабль отходит утром |" in page or "| ru | мы пьём чай дома |" in page or "| ru | дорога" in page


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--milestone", "early"], "is not a NAME=PATH"),
        (["--model", "tiny=elsewhere"], "twice"),
        (["--languages", "x.tsv"], "go together"),
        (["--model", "b=/nowhere"], "/nowhere"),
        (["--recipe", "/nowhere.toml"], "/nowhere.toml"),
        (["--log", "a=/nowhere.jsonl"], "/nowhere.jsonl"),
    ],
)
def test_mistakes_are_named(place: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str) -> None:
    assert reproduce(place, *more) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 2


def test_a_foreign_file_of_cells_is_not_taken(place: Path, tmp_path: Path) -> None:
    """Cells of another format are measured again, those of an interrupted run are kept."""
    from unembed.evaluation.reproduction import Reproduction

    write_json(tmp_path / "paper.json", {"format": 99, "cells": {"x": {}}})
    assert Reproduction(tmp_path / "paper.json").values["cells"] == {}
    run = Reproduction(tmp_path / "paper.json", seed=3)
    run.cell("a", {"n": 1}, lambda: {"value": 1})
    again = Reproduction(tmp_path / "paper.json", seed=3)
    again.cell("a", {"n": 1}, lambda: {"value": 2})
    assert again.values["cells"]["a"]["value"] == 1
    options = {"strategy": "euler", "score": "commit", "keep": 0}  # of a version that had two options more
    again.values["cells"]["b"] = {"stamp": {"seed": 3, "options": options}, "value": 1}
    write_json(tmp_path / "paper.json", again.values)
    later = Reproduction(tmp_path / "paper.json", seed=3)
    later.cell("b", {"options": {"strategy": "euler"}}, lambda: {"value": 2})
    assert later.values["cells"]["b"]["value"] == 1
    again.cell("a", {"n": 2}, lambda: {"value": 3})
    assert again.values["cells"]["a"]["value"] == 3
