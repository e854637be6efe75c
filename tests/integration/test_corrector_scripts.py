"""The way to a corrector, by the scripts that a researcher runs: pairs, training, pairs of its own, measurement."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from unembed.data.shards import ShardDataset, write_shards
from unembed.data.tokenization import Tokenizer
from unembed.encoders.hashing import HashingEncoder
from unembed.model.checkpoint import load_checkpoint, save_checkpoint
from unembed.model.closed_form import fit_closed_form
from unembed.model.denoiser import Denoiser, DenoiserConfig
from unembed.training.draft_pairs import KINDS, Pairs

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
LIMIT = 8


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    sys.modules.pop(name, None)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    importlib.import_module(name).main()
    sys.modules.pop(name, None)


def test_pairs_training_and_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = HashingEncoder(24)
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json())
    words = "the old dog saw a small house near river and city people went home with water every morning".split()
    rng = np.random.default_rng(0)
    texts = [
        (" ".join(rng.choice(words, size=rng.integers(2, LIMIT))), ["news", "scitldr"][i % 4 == 0]) for i in range(80)
    ]
    write_shards(tmp_path / "shards", texts, encoder, tokenizer, limit=LIMIT)
    dataset = ShardDataset(tmp_path / "shards")
    torch.manual_seed(0)
    banned = torch.zeros(tokenizer.size, dtype=torch.bool)
    banned[torch.from_numpy(tokenizer.banned)] = True
    config = DenoiserConfig(
        vector_dim=24, vocab_size=tokenizer.size, width=24, layers=1, heads=6, limit=LIMIT, causal=True,
        prefix_tokens=1, token_prior=True, mask_id=tokenizer.mask_id, eos_id=tokenizer.eos_id,
        bos_id=tokenizer.bos_id, pad_id=tokenizer.pad_id,
    )  # fmt: skip
    base = Denoiser(config, banned)
    ids, lengths, vectors = dataset.gather(np.arange(len(dataset)))
    batch = torch.from_numpy(ids), torch.from_numpy(lengths), torch.from_numpy(vectors)
    parts = fit_closed_form([batch], tokenizer.size, LIMIT, positions=False)
    base.token_prior.load_state_dict(parts.token_prior.state_dict())
    model = tmp_path / "model"
    save_checkpoint(model, base, tokenizer.to_json(), encoder.identity.to_dict(), {})
    shared = ("--model", model, "--shards", tmp_path / "shards")

    run(monkeypatch, "train_corrector", "pairs", *shared, "--own", 16, "--filled", 16, "--mistakes", 18,
        "--precision", "", "--out", tmp_path / "pairs")  # fmt: skip
    pairs = Pairs.load(tmp_path / "pairs")
    assert 40 <= len(pairs) <= 50 and {KINDS[k] for k in pairs.kinds} == set(KINDS) - {"corrected"}
    names = dataset.source_names
    assert {names[i] for i in dataset.sources[pairs.rows]} == {"news"}, "left-out sources are never trained on"

    out = tmp_path / "run"
    run(monkeypatch, "train_corrector", "train", *shared, "--pairs", tmp_path / "pairs", "--out", out,
        "--steps", 4, "--batch", 8, "--held", 10, "--shares", "filled=0.5", "greedy=0.5")  # fmt: skip
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert "base/all" in lines[0] and "held/all" in lines[-1] and lines[-1]["step"] == 4
    (model / "corrector.safetensors").write_bytes((out / "corrector.safetensors").read_bytes())
    checkpoint = load_checkpoint(model)
    assert checkpoint.corrector is not None

    run(monkeypatch, "train_corrector", "corrected", *shared, "--pairs", tmp_path / "pairs", "--corrected", 12,
        "--corrector", model / "corrector.safetensors", "--precision", "", "--out", tmp_path / "more")  # fmt: skip
    more = Pairs.load(tmp_path / "more")
    assert len(more) > 0 and {KINDS[k] for k in more.kinds} == {"corrected"}

    capsys.readouterr()
    result = tmp_path / "correct.json"
    run(monkeypatch, "correct", "--model", model, "--data", tmp_path / "shards", "-n", 12, "--rounds", 0, 2,
        "--out", result)  # fmt: skip
    stored = json.loads(result.read_text())
    assert stored["data"]["n"] == 12 and stored["corrector"]["base"] == checkpoint.weights
    for arm in ("corrections", "best-of"):
        none, two = stored[arm]["0"], stored[arm]["2"]
        assert none["queries"] <= 1 and two["queries"] <= 3
        assert two["cosine"]["value"] >= none["cosine"]["value"] - 1e-6
