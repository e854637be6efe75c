"""The autoregressive network overfits the golden sentences, from texts to the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_golden_overfit import RECIPE, SENTENCES

from unembed import Inverter, Recipe, load_encoder, train
from unembed.cli.app import main
from unembed.data.shard_writer import write_shards
from unembed.data.tokenization import Tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("autoregressive")
    encoder = load_encoder("hashing:64")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    write_shards(
        folder / "shards", [(s, "golden") for s in SENTENCES], encoder, tokenizer, max_length=16, dtype="float32"
    )
    shards = str(folder / "shards")
    values = {
        **RECIPE,
        "model": {**RECIPE["model"], "backbone": "autoregressive"},
        "objective": {**RECIPE["objective"], "causal_share": 1.0},
        "run": {**RECIPE["run"], "steps": 200, "milestones": ["1s"]},
        "data": {"shards": shards, "encoder": "hashing:64", "max_length": 16, "batch_size": 16},
        "validation": {"texts": 32, "decoded": 32, "shards": shards},
    }
    threads = torch.get_num_threads()
    result = train(Recipe.from_dict(values), folder / "run", device="cpu")
    torch.set_num_threads(threads)
    assert "bound" not in result.metrics and "adaptive/token_f1" not in result.metrics
    assert result.metrics["left-to-right/token_f1"] > 0.9
    return Path(result.checkpoint)


def test_it_returns_the_sentences_greedily_and_by_beam(checkpoint: Path) -> None:
    inverter = Inverter.from_pretrained(checkpoint, device="cpu")
    vectors = load_encoder("hashing:64").encode(SENTENCES)
    for options in ({}, {"strategy": "left-to-right", "beam": 4}):  # with no option it goes left to right
        found = inverter.invert(vectors, **options)
        assert sum(r.text == s for r, s in zip(found, SENTENCES, strict=True)) >= 31
    assert found[0].passes > len(found[0].token_ids)


def test_a_checkpoint_of_its_milestone_is_kept(checkpoint: Path) -> None:
    kept = checkpoint.parent / "milestones" / "1s"
    notes = json.loads((kept / "config.json").read_text())["notes"]
    assert 0 < notes["steps"] < 200 and not notes["finished"]
    Inverter.from_pretrained(kept, device="cpu")


def test_the_command_line_takes_a_beam_and_refuses_masks(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "vectors.npy", load_encoder("hashing:64").encode(SENTENCES[:4]))
    command = ["invert", str(tmp_path / "vectors.npy"), "--model", str(checkpoint), "--json"]
    assert main([*command, "--strategy", "left-to-right", "--beam", "4"]) == 0
    assert SENTENCES[0] in capsys.readouterr().out
    assert main([*command, "--strategy", "adaptive"]) == 2
    assert "autoregressive, so it cannot decode by adaptive. Use" in " ".join(capsys.readouterr().err.split())
