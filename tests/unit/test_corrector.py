"""The corrector: nothing changes at the start, the base never does, its file comes back; and drafts with mistakes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.tiny import some_vectors, tiny_denoiser
from unembed.checkpoint import corrector_file
from unembed.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from unembed.checkpoint.corrector_file import CORRECTOR_FILE, corrector_notes, read_corrector, write_corrector
from unembed.decoding.loop import finish
from unembed.errors import CheckpointError, DataError, InputError
from unembed.network.base import MASK
from unembed.network.corrector import Corrector, CorrectorConfig
from unembed.network.denoiser import Denoiser
from unembed.refinement.correction import corrections
from unembed.training.pairs.corruption import Corruption, similar_tokens

SMALL = CorrectorConfig(layers=1, heads=2, mlp=16, read_heads=1, read_width=8, rank=4, vector_rows=1)
LIMIT = 8


def with_prior(seed: int = 0) -> Denoiser:
    base = tiny_denoiser(seed=seed, token_prior=True)
    generator = torch.Generator().manual_seed(seed)
    prior = base.token_prior
    prior.codes.copy_(torch.randint(-100, 100, prior.codes.shape, generator=generator))
    prior.scale.fill_(0.01)
    prior.square.copy_((prior.codes.float() ** 2).sum(1) * prior.scale**2)
    prior.counts.fill_(50)
    return base


def changed(corrector: Corrector, seed: int = 5) -> Corrector:
    """Weights that are nowhere zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in corrector.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return corrector


def inputs(count: int = 4, n: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 24, (count, n), generator=generator)
    lengths = torch.arange(count) % 3 + n - 2
    return torch.nn.functional.normalize(some_vectors(count)), ids, lengths, some_vectors(count, seed=9)


@torch.no_grad()
def outputs(base: Denoiser, condition) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.full((len(condition), 5), 7)
    masks = base.logits(ids, torch.full_like(ids, MASK), condition)
    _, state = base.next_logits(torch.full((len(condition),), base.config.bos_id), base.start_causal(condition))
    return masks, base.next_logits(torch.full((len(condition),), 7), state)[0]


def test_a_new_corrector_changes_nothing_and_a_trained_one_does() -> None:
    base = with_prior()
    vectors, ids, lengths, own = inputs()
    with torch.no_grad():
        condition = base.condition(vectors)
        new = Corrector(base, SMALL)(condition, ids, lengths, own)
        other = changed(Corrector(base, SMALL))(condition, ids, lengths, own)
    for before, same, different in zip(*(outputs(base, c) for c in (condition, new, other)), strict=True):
        assert torch.equal(before, same)
        assert not torch.allclose(before, different, atol=1e-3)


def test_without_a_draft_the_denoiser_is_what_it_was() -> None:
    base = with_prior()
    vectors, ids, lengths, own = inputs()
    with torch.no_grad():
        before = outputs(base, base.condition(vectors))
        changed(Corrector(base, SMALL))(base.condition(vectors), ids, lengths, own)
        after = outputs(base, base.condition(vectors))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_padding_and_neighbours_are_not_seen() -> None:
    """A draft alone gives what it gives beside longer ones, and selecting rows commutes with correcting."""
    base = with_prior()
    corrector = changed(Corrector(base, SMALL))
    vectors, ids, lengths, own = inputs()
    with torch.no_grad():
        condition = base.condition(vectors)
        together = corrector(condition, ids, lengths, own)
        pick = torch.tensor([2, 0, 2])
        for a, b in zip(outputs(base, together.select(pick)), outputs(base, together), strict=True):
            assert torch.allclose(a, b[pick], atol=1e-5)
        for row in range(len(ids)):
            n = int(lengths[row])
            one = condition.select(torch.tensor([row]))
            alone = corrector(one, ids[row : row + 1, :n], lengths[row : row + 1], own[row : row + 1])
            for a, b in zip(outputs(base, alone), outputs(base, together), strict=True):
                assert torch.allclose(a[0], b[row], atol=1e-4)


def test_the_whole_text_at_once_is_the_text_step_by_step() -> None:
    base = with_prior()
    vectors, ids, lengths, own = inputs()
    with torch.no_grad():
        condition = changed(Corrector(base, SMALL))(base.condition(vectors), ids, lengths, own)
        shown = torch.tensor([[2, 7, 9]] * len(ids))
        hidden = base.hidden(shown, torch.full_like(shown, 3), condition, causal=True)
        state = base.start_causal(condition)
        for column in range(3):
            logits, state = base.next_logits(shown[:, column], state)
        owner = torch.arange(len(ids))
        whole = base.token_logits(hidden[:, -1], owner, condition, used=shown)
    assert torch.allclose(whole, logits, atol=1e-4)


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="rank is 0"):
        CorrectorConfig(rank=0)
    with pytest.raises(InputError, match="token prior"):
        Corrector(tiny_denoiser(), SMALL)
    with pytest.raises(InputError, match="not a multiple of 3 heads"):
        Corrector(with_prior(), CorrectorConfig(heads=3))


def test_corrections_are_sorted_and_greedy_is_greedy() -> None:
    torch.manual_seed(0)  # a beam may lose the greedy text; with these weights it does not
    base = with_prior()
    corrector = changed(Corrector(base, SMALL))
    vectors, ids, lengths, own = inputs()
    drafts = [tuple(row[:n].tolist()) for row, n in zip(ids, lengths, strict=True)]
    with torch.no_grad():
        condition = base.condition(vectors)
        found, passes = finish(corrections(corrector, base, condition, drafts, own, beam=4))
        greedy, _ = finish(corrections(corrector, base, condition, drafts, own, beam=1))
        after = corrector(condition, ids, lengths, own)
    for row, options in enumerate(found):
        scores = [score for _, score in options]
        assert 0 < len(options) <= 4 and passes[row] > 0 and scores == sorted(scores, reverse=True)
        assert len({text for text, _ in options}) == len(options)
        text, score = options[0]
        assert score == pytest.approx(_log_probability(base, after.select(torch.tensor([row])), text), abs=1e-3)
        text, score = greedy[row][0]
        assert score == pytest.approx(_log_probability(base, after.select(torch.tensor([row])), text), abs=1e-3)
        assert max(scores) >= score - 1e-4


@torch.no_grad()
def _log_probability(base: Denoiser, condition, text: tuple[int, ...]) -> float:
    state, last, total = base.start_causal(condition), base.config.bos_id, 0.0
    ends = (*text, base.config.eos_id) if len(text) < base.config.max_length else text
    for step, token in enumerate(ends):
        logits, state = base.next_logits(torch.tensor([last]), state)
        if step == 0:
            logits[:, base.config.eos_id] = -torch.inf
        total += float(logits.log_softmax(1)[0, token])
        last = token
    return total


# ---------------------------------------------------------------------- its file


def test_the_file_comes_back_and_the_checkpoint_stays_the_same(tmp_path: Path) -> None:
    base = with_prior()
    save_checkpoint(tmp_path, base, "{}", {}, {})
    before = load_checkpoint(tmp_path)
    assert before.corrector is None
    corrector = changed(Corrector(base, SMALL))
    notes = {"base": before.weights, "steps": 3}
    digest = write_corrector(tmp_path / CORRECTOR_FILE, corrector, notes)
    assert corrector_notes(tmp_path / CORRECTOR_FILE) == {**notes, "sha256": digest}
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.sha256 == before.sha256 and checkpoint.corrector is not None
    stored = checkpoint.corrector.state_dict()
    for name, value in corrector.state_dict().items():
        assert torch.allclose(stored[name], value, atol=float(value.abs().max()) / 127), name
    vectors, ids, lengths, own = inputs()
    with torch.no_grad():
        a = outputs(base, corrector(base.condition(vectors), ids, lengths, own))
        c = checkpoint.denoiser.condition(vectors)
        b = outputs(checkpoint.denoiser, checkpoint.corrector(c, ids, lengths, own))
    assert all(torch.allclose(x, y, atol=0.05) for x, y in zip(a, b, strict=True))


def test_bad_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = with_prior()
    path = tmp_path / CORRECTOR_FILE
    write_corrector(path, Corrector(base, SMALL), {"base": "a"})
    with pytest.raises(CheckpointError, match="beside other weights"):
        read_corrector(path, base, "b")
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 85]) + whole[-2:])
    with pytest.raises(CheckpointError, match="checksum"):
        read_corrector(path, base, "a")
    path.write_bytes(whole[:200])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_corrector(path, base)
    from safetensors.torch import save_file

    stored = {**Corrector(base, SMALL).state_dict(), "x": torch.zeros(1)}
    header = {"shape": json.dumps(asdict(SMALL)), "notes": "{}", "sha256": corrector_file._digest(stored)}
    save_file(stored, str(path), metadata={**header, "format": "unembed-corrector-2"})
    with pytest.raises(CheckpointError, match="x has no place in the network"):
        read_corrector(path, base)
    stored.pop("x")
    header["sha256"] = corrector_file._digest(stored)
    save_file(stored, str(path), metadata={**header, "format": "unembed-corrector-1"})
    assert torch.equal(read_corrector(path, base).mix.weight, stored["mix.weight"])
    save_file({"x": torch.zeros(1)}, str(path))
    with pytest.raises(CheckpointError, match="holds no corrector"):
        read_corrector(path, base)
    other = tiny_denoiser(vocab=24, token_prior=True, layers=2)
    write_corrector(path, Corrector(other, SMALL))
    with pytest.raises(CheckpointError, match="does not fit"):
        read_corrector(path, base)
    monkeypatch.setattr(corrector_file, "MOST_BYTES", 100)
    with pytest.raises(DataError, match="MiB, more than"):
        write_corrector(path, Corrector(base, SMALL))


# ---------------------------------------------------------------------- drafts with mistakes


def test_mistakes_are_texts() -> None:
    means = torch.nn.functional.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)))
    counts = torch.full((60,), 100.0)
    counts[:20] = 0
    similar = similar_tokens(means, counts, neighbours=5)
    assert (similar[20:] >= 20).all() and (similar[20:] != np.arange(20, 60)[:, None]).all()
    best = (means[20:] @ means[20:].T).fill_diagonal_(-2).argmax(1).numpy() + 20
    assert (similar[20:, 0] == best).mean() > 0.9  # bf16 may turn two that are close
    corruption = Corruption(similar, np.arange(20, 60), LIMIT)
    rng = np.random.default_rng(0)
    text = list(range(20, 20 + LIMIT))
    drafts = [corruption(text, rng) for _ in range(400)]
    assert all(1 <= len(draft) <= LIMIT and set(draft) <= set(range(20, 60)) for draft in drafts)
    assert 0.01 < np.mean([draft == text for draft in drafts]) < 0.2
    assert {len(draft) for draft in drafts} >= {LIMIT, LIMIT - 1} and len({tuple(draft) for draft in drafts}) > 200
    assert 1 <= len(corruption([30], rng)) <= LIMIT
