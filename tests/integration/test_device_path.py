"""The device path in the training loop: packs, resuming, failures that are survived, what is refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_encoders import save_model

from unembed.data.pack import read_pack, write_pack
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.priors.fit import fit_closed_form
from unembed.training.device import resident as resident_file
from unembed.training.device.corpus import BatchLoader, Corpus, sizes_of
from unembed.training.loop import train
from unembed.training.recipes.recipe import Recipe
from unembed.training.report import read_log
from unembed.training.stepper import Stepper, make_task
from unembed.training.tasks.device_task import DeviceTask

WORDS = "red green blue small large house tree river stone bird walks sings under unbelievably a".split()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs a (300 texts, with the encoder), b (120 texts) and held (40 texts), of a small BERT."""
    folder = tmp_path_factory.mktemp("packs")
    encoder = load_encoder(str(save_model(folder / "bert", "mean", normalise=True)))
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    rng = np.random.default_rng(0)
    for name, count in (("a", 300), ("b", 120), ("held", 40)):
        texts = [(" ".join(rng.choice(WORDS, rng.integers(1, 6))), "s") for _ in range(count)]
        write_pack(folder / name, texts, encoder, tokenizer, 12, name == "a")
    return folder


def recipe(packs: Path, *names: str, **changes: dict[str, Any]) -> Recipe:
    """A run of 24 steps of a tiny network, dropout on so that torch's own generator matters."""
    values: dict[str, dict[str, Any]] = {
        "model": {"width": 16, "layers": 2, "heads": 2, "prefix_tokens": 2, "dropout": 0.1, "token_prior": True},
        "data": {
            "shards": [str(packs / n) for n in names or ("a",)],
            "max_length": 12,
            "batch_size": 24,
            "buckets": [6, 12],
        },
        "objective": {"shortlist_frequent": 40, "shortlist_sampled": 40, "causal_share": 0.5},
        "optimizer": {"lr": 3e-3, "warmup": 5, "ema": 0.9, "matrices": "muon", "muon_lr": 5e-3},
        "run": {"steps": 24, "precision": "fp32", "compile": "no", "threads": 1, "validate_every": 1e9},
        "validation": {"shards": str(packs / "held"), "texts": 32, "decoded": 4},
    }
    for table, keys in changes.items():
        values[table] |= keys
    return Recipe.from_dict(values)


def task_of(made: Recipe) -> DeviceTask:
    task = make_task(made, CPU)
    assert isinstance(task, DeviceTask)
    return task


def stop_at(number: int):
    def stop(step: int, loss: float) -> None:
        if step == number:
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


def losses_of(made: Recipe, out: Path, **more: Any) -> list[float]:
    found: list[float] = []
    train(made, out, on_step=lambda step, loss: found.append(loss), device="cpu", **more)
    return found


def keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU with memory enough: the vectors of all texts are made once and kept."""
    monkeypatch.setattr(resident_file, "_has_room", lambda size, device: True)


# ------------------------------------------------------------------------------------------------ texts and batches


def test_batches_of_a_bucket_have_one_size_and_every_text_comes_once(packs: Path) -> None:
    pack = read_pack(packs / "a")
    corpus = Corpus(pack, np.arange(len(pack)), CPU)
    for apart in (False, True):
        batches = BatchLoader(corpus, [4, 8, 12], 16, 0.3, 5, apart)
        assert batches.sizes == sizes_of(16, [4, 8, 12]) == [32, 16, 8]
        seen: list[int] = []
        for _ in range(batches.batches_per_epoch):
            batch = batches.next()
            assert len(batch.rows) == dict(zip([4, 8, 12], batches.sizes, strict=True))[batch.width]
            assert 1 <= int(batch.length.min()) and int(batch.length.max()) <= batch.width
            assert not apart or batch.cut or bool(batch.whole.all())
            for row, start, length, whole in zip(batch.rows, batch.start, batch.length, batch.whole, strict=True):
                first, end = pack.starts[row], pack.starts[row] + pack.lengths[row]
                assert first <= start and start + length <= end and bool(whole) == (length == pack.lengths[row])
            seen += batch.rows.tolist()
        assert len(seen) == len(set(seen)) and len(seen) > 0.75 * len(pack)
        assert batches.state()["epoch"] == 0
        batches.next()
        assert batches.state() == {"epoch": 1, "position": 1, "texts": 16}


def test_a_crop_is_a_run_of_words_and_reads_as_one(packs: Path) -> None:
    """What the network sees of a crop is what the encoder would see of its words."""
    pack = read_pack(packs / "a")
    corpus = Corpus(pack, np.arange(len(pack)), CPU)
    epoch = corpus.epoch(0, 0, [12], 1.0)
    whole = int(epoch.whole.sum())
    assert 20 < whole < 200
    for row, start, length in list(zip(epoch.rows, epoch.start, epoch.length, strict=True))[:80]:
        crop = corpus.ids(start.view(1), 12)[0, : int(length)].tolist()
        words = pack.tokenizer.decode(crop)
        text = pack.tokenizer.decode(pack.gather(np.array([row]))[0][0][: pack.lengths[row]].tolist())
        assert f" {words} " in f" {text} " and pack.tokenizer.encode([words]) == [crop]
    shares = [float((~corpus.epoch(k, 0, [12], 0.4).whole).float().mean()) for k in range(6)]
    assert 0.1 < min(shares) and max(shares) < 0.4 and len(set(shares)) > 1


def test_parts_fitted_on_the_device_are_those_of_the_exact_path(packs: Path) -> None:
    """Padding and batches of one size change nothing; every text counts once."""
    task = task_of(recipe(packs))
    pack, model = read_pack(packs / "a"), task.model
    ids, lengths = pack.gather(np.arange(len(pack)))
    embed = pack.encoder("cpu", torch.float32)
    rows = [torch.from_numpy(row[:n]) for row, n in zip(ids, lengths, strict=True)]
    batch = (torch.from_numpy(ids), torch.from_numpy(lengths), torch.cat([embed(r.unsqueeze(0)) for r in rows]))
    parts = fit_closed_form([batch], pack.tokenizer.size, 12)
    assert torch.allclose(model.whitening.mean, parts.whitening.mean, atol=1e-6)
    assert torch.allclose(model.whitening.matrix, parts.whitening.matrix, rtol=1e-3, atol=1e-3)
    assert model.token_prior is not None and torch.equal(model.token_prior.counts, parts.token_prior.counts)
    assert torch.allclose(model.token_prior.means(), parts.token_prior.means(), atol=0.02)
    assert bool(task.resident.known.all()) and task.resident.vectors is None


def test_kept_vectors_are_those_of_the_whole_texts_and_crops_have_their_own(
    packs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = task_of(recipe(packs))
    keeping(monkeypatch)
    task = task_of(recipe(packs, data={"crop": 0.5}))
    vectors = task.resident.vectors
    assert vectors is not None and vectors.dtype == torch.float16 and task.feed.apart
    cuts = []
    for _ in range(task.feed.batches_per_epoch):
        batch = task.feed.next()
        ids, own, full, known = task.resident.of(batch)
        assert bool(known.all()) and torch.equal(full, vectors[batch.rows].float())
        assert torch.allclose(own, plain.resident.embed(ids, batch.length), atol=2e-3)
        cuts.append(batch.cut)
        if not batch.cut:
            assert own is full
        elif not bool(batch.whole.all()):
            assert not torch.allclose(own, full, atol=0.02)
    assert any(cuts) and not all(cuts)


# ------------------------------------------------------------------------------------------------ runs


@pytest.mark.parametrize("kept", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    if kept:
        keeping(monkeypatch)
    made = recipe(packs)
    whole = train(made, tmp_path / "whole", device="cpu")
    assert whole.finished and whole.steps == 24
    for number in (5, 17):
        part = train(made, tmp_path / "parts", resume=number > 5, device="cpu", on_step=stop_at(number))
        assert part.steps == number
    assert train(made, tmp_path / "parts", resume=True, device="cpu").texts == whole.texts
    a, b = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_it_learns(packs: Path, tmp_path: Path) -> None:
    losses = losses_of(recipe(packs, run={"steps": 150}), tmp_path / "run")
    assert np.mean(losses[-20:]) < 0.75 * np.mean(losses[:5]), losses[::15]
    (line,) = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "validation"]
    assert line["causal_nll"] < 3.5


def test_more_texts_are_taken_in_and_not_taken_out_of_the_means(packs: Path, tmp_path: Path) -> None:
    """Weights and closed-form parts come from the state; the new texts are in none of the means."""
    made = recipe(packs, run={"horizon": "none"})
    train(made, tmp_path / "run", device="cpu", on_step=stop_at(8))
    before = load_file(tmp_path / "run" / "state.safetensors")
    more = recipe(packs, "a", "b", run={"horizon": "none", "steps": 12})
    known = {"notes": {"fitted": make_task(made, CPU).notes()["fitted"]}}
    task = make_task(more, CPU, known=known)
    assert isinstance(task, DeviceTask) and task.resident.known.tolist() == [True] * 300 + [False] * 120
    more = recipe(packs, "a", "b", run={"horizon": "none"})
    result = train(more, tmp_path / "run", device="cpu", resume=True, on_step=stop_at(14))
    assert result.steps == 14
    after = load_file(tmp_path / "run" / "state.safetensors")
    closed = [key for key in before if "whitening" in key or "token_prior" in key]
    assert len(closed) > 6 and all(torch.equal(before[key], after[key]) for key in closed)
    assert not torch.equal(before["model/head.bias"], after["model/head.bias"])


# ------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_a_step_that_is_not_finite_is_left_out(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matrices: str
) -> None:
    made, calls = recipe(packs, optimizer={"matrices": matrices}), []
    real = DeviceTask.__init__

    def poisoned(task: DeviceTask, *args: Any) -> None:
        real(task, *args)
        task.model.blocks[0].up.weight.register_hook(
            lambda g: calls.append(1) or (g * torch.nan if len(calls) == 6 else g)
        )

    monkeypatch.setattr(DeviceTask, "__init__", poisoned)
    result = train(made, tmp_path / "run", device="cpu")
    assert result.finished and result.steps == 24 and len(calls) == 24
    state = load_file(tmp_path / "run" / "state.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in state.values() if value.is_floating_point())
    assert read_log(tmp_path / "run" / "log.jsonl")[-2]["left_out"] == 1


def test_the_device_leaves_out_a_step_by_itself(packs: Path) -> None:
    """As on a GPU, where the host does not look: AdamW stands still, Muon gets no gradient."""
    made = recipe(packs)
    task = task_of(made)
    stepper = Stepper(task, made)
    stepper.step(0, 1e-3)
    inside = {id(p) for p in task.model.blocks.parameters() if p.dim() == 2}
    before = [p.detach().clone() for p in task.model.parameters()]
    stepper.step(1, 1e-3)
    assert all(
        not torch.equal(p, b) for p, b in zip(task.model.parameters(), before, strict=True) if p.grad is not None
    )
    before = [p.detach().clone() for p in task.model.parameters()]
    for parameter in task.model.parameters():
        if parameter.grad is not None:
            parameter.grad.fill_(torch.nan)
    stepper._guard(torch.tensor(True))
    stepper.optimizer.step()
    for parameter, old in zip(task.model.parameters(), before, strict=True):
        assert bool(torch.isfinite(parameter).all())
        if id(parameter) not in inside:
            assert torch.equal(parameter, old)


def test_a_lack_of_memory_halves_the_batches(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sizes = DeviceTask.score, []

    def score(task: DeviceTask, part: Any, generator: torch.Generator) -> torch.Tensor:
        sizes.append(len(part.values.rows))
        if len(sizes) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.")
        return real(task, part, generator)

    monkeypatch.setattr(DeviceTask, "score", score)
    result = train(recipe(packs), tmp_path / "run", device="cpu")
    assert result.finished and result.steps == 24
    assert {*sizes[:4]} <= {32, 16} and {*sizes[4:]} == {16, 8}
    assert load_file(tmp_path / "run" / "state.safetensors")["generator"].numel()


def test_a_batch_that_never_fits_is_an_error(packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DeviceTask, "score", score)
    with pytest.raises(Exception, match="A batch does not fit into memory") as caught:
        train(recipe(packs), tmp_path / "run", device="cpu")
    assert "data.batch_size" in caught.value.do
