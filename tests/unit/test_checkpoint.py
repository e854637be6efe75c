"""A checkpoint comes back as it was written, and anything else is refused in two sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unembed.errors import CheckpointError
from unembed.model.checkpoint import SHARD_BYTES, _decode, load_checkpoint, save_checkpoint, verify_checkpoint
from unembed.model.denoiser import Denoiser, DenoiserConfig

CONFIG = DenoiserConfig(
    vector_dim=8, vocab_size=300, width=32, layers=1, heads=2, limit=6, prefix_tokens=2, token_prior=True
)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Denoiser]:
    """A small checkpoint in fp32."""
    torch.manual_seed(0)
    denoiser = Denoiser(CONFIG).eval()
    save_checkpoint(tmp_path / "c", denoiser, '{"a": 1}', {"name": "x"}, {"run": {}}, {"k": [1]}, {"steps": 3})
    return tmp_path / "c", denoiser


def test_round_trip(written: tuple[Path, Denoiser]) -> None:
    """Weights, buffers and the texts beside them come back bit for bit."""
    path, denoiser = written
    loaded = load_checkpoint(path)
    for name, value in denoiser.state_dict().items():
        assert torch.equal(loaded.denoiser.state_dict()[name], value), name
    assert loaded.tokenizer_json == '{"a": 1}'
    assert (loaded.identity, loaded.recipe, loaded.calibration) == ({"name": "x"}, {"run": {}}, {"k": [1]})
    assert loaded.notes == {"steps": 3}
    assert not loaded.denoiser.training


@pytest.mark.parametrize(("dtype", "bound"), [("fp16", 1e-3), ("int8", 0.5 / 127)])
def test_small_types_stay_close(tmp_path: Path, dtype: str, bound: float) -> None:
    """The error of a row is bounded by the type's step; the whitening matrix is exact."""
    torch.manual_seed(0)
    denoiser = Denoiser(CONFIG).eval()
    denoiser.whitening.matrix.normal_()
    save_checkpoint(tmp_path / "c", denoiser, "{}", {}, {}, dtype=dtype)
    loaded = load_checkpoint(tmp_path / "c").denoiser.state_dict()
    for name, value in denoiser.state_dict().items():
        if value.is_floating_point() and value.dim() == 2:
            step = value.abs().amax(1, keepdim=True) * bound + 1e-6
            assert ((loaded[name] - value).abs() <= step).all(), name
    assert torch.equal(loaded["whitening.matrix"], denoiser.whitening.matrix)


def test_counts_above_fp16_do_not_become_infinite(tmp_path: Path) -> None:
    """They did in 0.1.0: a run started from shipped weights had NaN as its first loss (leave-one-out of the prior)."""
    denoiser = Denoiser(replace(CONFIG, vocab_size=5000)).eval()
    assert denoiser.token_prior is not None
    denoiser.token_prior.counts[:] = torch.linspace(0, 2e6, 5000)
    save_checkpoint(tmp_path / "c", denoiser, "{}", {}, {}, dtype="int8")
    loaded = load_checkpoint(tmp_path / "c").denoiser.token_prior
    assert loaded is not None
    assert torch.equal(loaded.counts, denoiser.token_prior.counts)
    assert _decode({"a": torch.tensor([torch.inf, 2.0]).half()})["a"].isfinite().all()


def test_large_tensors_are_split_into_shards(tmp_path: Path) -> None:
    """No shard is over 15 MiB, and a tensor that is larger comes back whole."""
    denoiser = Denoiser(DenoiserConfig(vector_dim=8, vocab_size=70_000, width=64, layers=1, heads=2, limit=4))
    save_checkpoint(tmp_path / "c", denoiser, "{}", {}, {})
    shards = list((tmp_path / "c").glob("*.safetensors"))
    assert len(shards) > 1
    assert max(s.stat().st_size for s in shards) <= SHARD_BYTES + 4096
    assert torch.equal(load_checkpoint(tmp_path / "c").denoiser.embedding.weight, denoiser.embedding.weight)


def test_writing_again_leaves_no_old_shard(tmp_path: Path) -> None:
    """A smaller checkpoint over a larger one is that checkpoint and nothing else."""
    large = Denoiser(DenoiserConfig(vector_dim=8, vocab_size=70_000, width=64, layers=1, heads=2, limit=4))
    save_checkpoint(tmp_path / "c", large, "{}", {}, {})
    save_checkpoint(tmp_path / "c", Denoiser(CONFIG), "{}", {}, {})
    assert len(list((tmp_path / "c").glob("*.safetensors"))) == 1
    verify_checkpoint(tmp_path / "c")


def _truncate(path: Path) -> None:
    shard = next(path.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])


def _flip(path: Path) -> None:
    shard = next(path.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def _lose(path: Path) -> None:
    next(path.glob("*.safetensors")).unlink()


def _config(path: Path, **changes: object) -> None:
    values = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(values | changes))


BROKEN = {
    "truncated": (_truncate, "damaged"),
    "flipped": (_flip, "damaged"),
    "lost": (_lose, "lacks"),
    "foreign": (lambda p: _config(p, format="other"), "not an unembed checkpoint"),
    "newer": (lambda p: _config(p, version=99), "format 99, this program reads format 1. Install a newer unembed"),
    "older": (
        lambda p: _config(p, version=0),
        "format 0, this program reads format 1. Install the unembed that wrote it",
    ),
    "no number": (lambda p: _config(p, version="one"), "format one, this program reads format 1. Install the unembed"),
    "unknown key": (lambda p: _config(p, denoiser={**CONFIG.to_dict(), "bells": 3}), "does not fit"),
    "no config": (lambda p: (p / "config.json").unlink(), "not a whole checkpoint"),
    "half config": (lambda p: (p / "config.json").write_text('{"format":'), "not a whole checkpoint"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_not_a_checkpoint_is_refused(written: tuple[Path, Denoiser], name: str) -> None:
    """Truncated, foreign, newer, older: one sentence on what is wrong, one on what to do."""
    path, _ = written
    spoil, words = BROKEN[name]
    spoil(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(path)
    assert caught.value.do


def test_an_absent_checkpoint_is_refused(tmp_path: Path) -> None:
    """The path is named."""
    with pytest.raises(CheckpointError, match="nowhere"):
        load_checkpoint(tmp_path / "nowhere")


def test_checkpoints_are_not_pickles(written: tuple[Path, Denoiser]) -> None:
    """PAPER.md, mistake 9: nothing in the directory is a pickle or a zip of pickles."""
    path, _ = written
    for file in path.iterdir():
        assert file.suffix in (".json", ".safetensors")
        assert file.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"PK")
