"""A checkpoint comes back as it was written, and anything else is refused in two sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unembed.checkpoint.checkpoint import SHARD_BYTES, load_checkpoint, save_checkpoint, verify_checkpoint
from unembed.checkpoint.shipped import find_checkpoint
from unembed.checkpoint.student_file import read_student
from unembed.errors import CheckpointError
from unembed.files import sha256_file
from unembed.network.config import ModelConfig
from unembed.network.denoiser import Denoiser
from unembed.priors.token_prior import TokenPrior

CONFIG = ModelConfig(
    vector_dim=8, vocab_size=300, width=32, layers=1, heads=2, max_length=6, prefix_tokens=2, token_prior=True
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


def test_loading_draws_no_random_numbers(written: tuple[Path, Denoiser]) -> None:
    """What is replaced need not be drawn, and a program's own random numbers do not hang on what it loads."""
    before = torch.get_rng_state()
    load_checkpoint(written[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("dtype", "bound"), [("fp16", 1e-3), ("int8", 0.5 / 127), ("int6", 0.5 / 31)])
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


def with_means(vocab: int = 300) -> Denoiser:
    """A denoiser whose token prior knows class means."""
    torch.manual_seed(0)
    denoiser = Denoiser(replace(CONFIG, vocab_size=vocab, vector_dim=32)).eval()
    sums, counts = torch.randn(vocab, 32) * 50, torch.randint(1, 200, (vocab,))
    denoiser.token_prior = TokenPrior.from_sums(sums, counts, 1000)
    return denoiser


@pytest.mark.parametrize("dtype", ["fp16", "int8", "int6"])
def test_the_squares_of_the_prior_are_those_of_the_means_as_stored(tmp_path: Path, dtype: str) -> None:
    """They are not in the file; with 4-bit codes those of the fit would belong to other means."""
    denoiser = with_means()
    save_checkpoint(tmp_path / "c", denoiser, "{}", {}, {}, dtype=dtype)
    before, after = denoiser.token_prior, load_checkpoint(tmp_path / "c").denoiser.token_prior
    assert before is not None and after is not None and after.codes.dtype == torch.int8
    assert torch.allclose(after.square, after.means().square().sum(1), rtol=1e-5)
    assert torch.equal(after.codes, before.codes) == (dtype != "int6")
    cosine = torch.nn.functional.cosine_similarity(after.means(), before.means())
    assert float(cosine.mean()) > 0.99 and float(cosine.min()) > 0.98


def test_int6_is_small_and_stored_again_it_is_the_same(tmp_path: Path) -> None:
    denoiser = with_means(4000)
    for name in ("int8", "int6"):
        save_checkpoint(tmp_path / name, denoiser, "{}", {}, {}, dtype=name)
    sizes = {name: sum(s.stat().st_size for s in (tmp_path / name).glob("model-*")) for name in ("int8", "int6")}
    assert sizes["int6"] < 0.8 * sizes["int8"]
    once = load_checkpoint(tmp_path / "int6")
    save_checkpoint(tmp_path / "again", once.denoiser, "{}", {}, {}, dtype="int6")
    assert load_checkpoint(tmp_path / "again").weights == once.weights


def test_a_checkpoint_of_version_1_is_read(tmp_path: Path) -> None:
    """int8 rows beside any float32 scales, and squares in float16, which are kept as they are."""
    denoiser = with_means()
    save_checkpoint(tmp_path, denoiser, "{}", {}, {}, dtype="int8")
    shard = next(tmp_path.glob("model-*"))
    prior = denoiser.token_prior
    assert prior is not None
    stored = load_file(shard) | {"token_prior.square": prior.square.half()}
    stored["embedding.weight:scale"] = torch.rand(300) * 0.01
    save_file(stored, shard)
    files = json.loads((tmp_path / "config.json").read_text())["files"] | {shard.name: sha256_file(shard)}
    _config(tmp_path, version=1, files=files)
    found = load_checkpoint(tmp_path).denoiser
    rows = stored["embedding.weight:int8"] * stored["embedding.weight:scale"][:, None]
    assert torch.equal(found.embedding.weight, rows) and found.token_prior is not None
    assert torch.equal(found.token_prior.square, prior.square.half().float())


def test_the_shipped_files_are_read() -> None:
    """Weights, student and corrector, whichever version they were shipped in."""
    folder = find_checkpoint("default")
    checkpoint = load_checkpoint(folder)
    prior = checkpoint.denoiser.token_prior
    assert prior is not None and checkpoint.corrector is not None
    assert torch.allclose(prior.square, prior.means().square().sum(1), rtol=2e-3)
    assert read_student(folder, checkpoint.sha256) is not None


def _parts(path: Path, **changes: torch.Tensor | None) -> None:
    shard = next(path.glob("model-*"))
    stored = {name: value for name, value in (load_file(shard) | changes).items() if value is not None}
    save_file(stored, shard)
    files = json.loads((path / "config.json").read_text())["files"] | {shard.name: sha256_file(shard)}
    _config(path, files=files)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embedding.weight:scale": None}, "embedding.weight has no scale"),
        (
            {"embedding.weight:scale": torch.full((300,), torch.nan)},
            "embedding.weight has a scale that is not a finite",
        ),
        ({"token_prior.codes:factor": None}, "token_prior.codes has no factor"),
        ({"token_prior.scale": torch.ones(299)}, r"token_prior.scale has shape \(299,\)"),
        ({"token_prior.scale": None}, "it lacks token_prior.scale"),
        ({"banned@1": torch.zeros(3)}, "the parts of banned do not belong together"),
        ({"banned@x": torch.zeros(3)}, "the parts of banned do not belong together"),
        ({"banned": None, "banned@0": torch.zeros(3), "banned@1": torch.zeros(3, 1)}, "the parts of banned do not"),
    ],
)
def test_foreign_tensors_are_named(tmp_path: Path, changes: dict[str, torch.Tensor | None], words: str) -> None:
    """Right checksums around tensors that cannot be used: two sentences, no trace."""
    save_checkpoint(tmp_path, with_means(), "{}", {}, {}, dtype="int6")
    _parts(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(tmp_path)
    assert caught.value.do and str(tmp_path) in caught.value.what


def test_large_tensors_are_split_into_shards(tmp_path: Path) -> None:
    """No shard is over 15 MiB, and a tensor that is larger comes back whole."""
    denoiser = Denoiser(ModelConfig(vector_dim=8, vocab_size=70_000, width=64, layers=1, heads=2, max_length=4))
    save_checkpoint(tmp_path / "c", denoiser, "{}", {}, {})
    shards = list((tmp_path / "c").glob("*.safetensors"))
    assert len(shards) > 1
    assert max(s.stat().st_size for s in shards) <= SHARD_BYTES + 4096
    assert torch.equal(load_checkpoint(tmp_path / "c").denoiser.embedding.weight, denoiser.embedding.weight)


def test_writing_again_leaves_no_old_shard(tmp_path: Path) -> None:
    """A smaller checkpoint over a larger one is that checkpoint and nothing else."""
    large = Denoiser(ModelConfig(vector_dim=8, vocab_size=70_000, width=64, layers=1, heads=2, max_length=4))
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
    "newer": (lambda p: _config(p, version=99), "format 99, this program reads formats 1 to 2. Install a newer"),
    "older": (
        lambda p: _config(p, version=0),
        "format 0, this program reads formats 1 to 2. Install the unembed that wrote it",
    ),
    "no number": (lambda p: _config(p, version="one"), "format one, this program reads formats 1 to 2. Install the un"),
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
    """Nothing in the directory is a pickle or a zip of pickles."""
    path, _ = written
    for file in path.iterdir():
        assert file.suffix in (".json", ".safetensors") or file.name == "SHA256SUMS"
        assert file.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"PK")
