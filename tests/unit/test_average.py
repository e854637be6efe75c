"""scripts/average.py: a line between two sets of weights, and what is noted of both."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from scripts import average
from unembed.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from unembed.network.config import ModelConfig
from unembed.network.denoiser import Denoiser

CONFIG = ModelConfig(vector_dim=8, vocab_size=300, width=16, layers=1, heads=2, max_length=6, prefix_tokens=2)


def saved(path: Path, seed: int, config: ModelConfig = CONFIG, **notes: object) -> Path:
    torch.manual_seed(seed)
    save_checkpoint(path, Denoiser(config).eval(), "{}", {"name": "x"}, {}, {"k": [seed]}, notes)
    return path


def test_it_lies_between_the_two_and_keeps_what_the_old_one_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"history": "from nothing", "decode": {"beam": 16}, "data": ["x"], "metrics": {"bound": 1.0}}
    old = saved(tmp_path / "a", 0, steps=3, texts_seen=100, seconds=1.5, **kept)
    new = saved(tmp_path / "b", 1, steps=4, texts_seen=50, seconds=2.0, data=["x", "y"])
    command = ["average", str(old), str(new), "--share", "0.25", "--out", str(tmp_path / "c"), "--history", "then more"]
    monkeypatch.setattr(sys, "argv", command)
    average.main()
    a, b, c = (load_checkpoint(path) for path in (old, new, tmp_path / "c"))
    others = b.denoiser.state_dict()
    for name, value in a.denoiser.state_dict().items():
        found = c.denoiser.state_dict()[name]
        if value.is_floating_point():
            torch.testing.assert_close(found, 0.75 * value + 0.25 * others[name])
        else:
            assert torch.equal(found, value)
    assert c.calibration == {"k": [0]} and c.notes["decode"] == {"beam": 16}
    assert (c.notes["steps"], c.notes["texts_seen"], c.notes["seconds"]) == (7, 150, 3.5)
    assert c.notes["history"] == "from nothing; then more"
    assert c.notes["data"] == ["x", "y"] and "metrics" not in c.notes


def test_mistakes_are_two_sentences_and_nothing_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = ModelConfig(vector_dim=8, vocab_size=300, width=32, layers=1, heads=2, max_length=6, prefix_tokens=2)
    old, other, new = saved(tmp_path / "a", 0), saved(tmp_path / "b", 1, wide), saved(tmp_path / "c", 2)
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    for models, more, what in (
        ((old, other), ("--share", "0.5", "--out", tmp_path / "d"), "different shapes"),
        ((old, tmp_path / "none"), ("--share", "0.5", "--out", tmp_path / "d"), "no checkpoint at"),
        ((old, new), ("--share", "0.5", "--out", old), "exists already"),
        ((old, new), ("--validation", tmp_path / "texts"), "no folder"),
    ):
        monkeypatch.setattr(sys, "argv", ["average", *map(str, [*models, *more])])
        with pytest.raises(SystemExit) as end:
            average.main()
        lines = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and len(lines) == 2 and what in lines[0], lines
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before and not (tmp_path / "d").exists()
