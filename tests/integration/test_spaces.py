"""The scripts of several vector spaces: shards of the same texts in another space, and the table of them all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.scripts import run_script
from tests.helpers.tiny import save_tiny
from unembed.data.shards import ShardDataset, write_shards
from unembed.data.tokenization import Tokenizer
from unembed.encoders.identity import PROBES
from unembed.encoders.lsa import fit_lsa
from unembed.encoders.registry import load_encoder

LIMIT = 8


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Shards of the hashing encoder."""
    encoder = load_encoder("hashing:16")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    words = "the old dog saw a small house near river and city people went home with water every morning".split()
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(words, size=generator.integers(2, LIMIT + 3))) for _ in range(300)]
    pairs = [(text, ["news", "mail"][i % 2]) for i, text in enumerate(texts)]
    write_shards(tmp_path / "train", pairs[:200], encoder, tokenizer, max_length=LIMIT, shard_size=80)
    write_shards(tmp_path / "test", pairs[200:], encoder, tokenizer, max_length=LIMIT, shard_size=80)
    fit_lsa([*texts[:200], *PROBES], tmp_path / "lsa", tokenizer.to_json(), dimension=12)
    return tmp_path


def leave_run(folder: Path, name: str) -> None:
    """An untrained checkpoint and a log, as a run leaves them."""
    recipe = {"run": {"seed": 0, "threads": 1}, "data": {"exclude_sources": ["mail"]}}
    save_tiny(folder / "checkpoint", name, recipe=recipe, prefix_tokens=1)
    (folder / "log.jsonl").write_text('{"kind": "train", "step": 3, "texts": 90, "seconds": 66.0}\n{"kind": "end"}\n')


def test_shards_in_another_space_hold_the_same_texts(home: Path) -> None:
    source = ShardDataset(home / "train")
    ids, lengths, vectors = source.gather(np.arange(160))
    for name in ("hashing:16", "hashing:16?dimensions=8", f"lsa:{home / 'lsa'}"):
        out = home / "out" / name.partition(":")[0] / str(len(name))
        run_script("benchmarks.experiments.spaces_shards", home / "train", out, "--encoder", name, "--shards", 2)
        data, encoder = ShardDataset(out), load_encoder(name)
        data.verify()
        assert len(data) == 160 and data.identity == encoder.identity and data.manifest.complete
        found = data.gather(np.arange(160))
        np.testing.assert_array_equal(found[0], ids)
        np.testing.assert_array_equal(data.sources, source.sources[:160])
        tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
        texts = [tokenizer.decode(row[:n]) for row, n in zip(ids.tolist(), lengths, strict=True)]
        np.testing.assert_allclose(found[2], encoder.encode(texts), atol=2e-3)  # kept as float16
    np.testing.assert_array_equal(ShardDataset(home / "out" / "hashing" / "10").gather(np.arange(160))[2], vectors)


def test_spaces_are_measured_once_and_fill_the_page(home: Path) -> None:
    spaces = {"cut": ("hashing:16?dimensions=8", 8), "lsa": (f"lsa:{home / 'lsa'}", 12)}
    root = home / "spaces"
    for space, (name, _) in spaces.items():
        for split in ("train", "test"):
            run_script("benchmarks.experiments.spaces_shards", home / split, root / split / space, "--encoder", name)
        leave_run(root / "runs" / space, name)
    page = home / "page.md"
    page.write_text("before\n<!-- spaces -->\nold\n<!-- /spaces -->\nafter\n")
    arguments = [root, "--spaces", *spaces, "-n", 20, "--out", home / "spaces.json", "--docs", page]
    run_script("benchmarks.experiments.spaces", *arguments)
    value = json.loads((home / "spaces.json").read_text())
    assert [(s["space"], s["dimension"], s["encoder"]) for s in value["spaces"]] == [
        ("cut", 8, "hashing"),
        ("lsa", 12, "lsa"),
    ]
    for space in value["spaces"]:
        names = [run["name"] for run in space["runs"]]
        assert names[-4:] == ["random-tokens", "unconditional", "nearest-neighbour", "closed-form"]
        assert "left-to-right" in names and space["runs"][0]["default"]
        assert space["training"]["texts"] == 100 and space["training"]["texts_seen"] == 90  # "mail" is left out
        assert all({"token_f1", "exact_match", "cosine"} <= set(run["metrics"]) for run in space["runs"])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert text.count("baseline: closed-form") == 2 and "| cut | random pairs of texts |" in text
    stamp = json.dumps(value)
    run_script("benchmarks.experiments.spaces", *arguments)  # the same checkpoints: nothing is measured again
    assert json.dumps(json.loads((home / "spaces.json").read_text())) == stamp and page.read_text() == text
