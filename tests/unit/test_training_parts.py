"""The parts of training: decay, average, learning rate, shortlist, cross-entropy, feed, objective."""

from __future__ import annotations

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unembed.data.feed import Feed
from unembed.model.denoiser import GUESS, MASK, PREFIX, Denoiser, DenoiserConfig
from unembed.training.cross_entropy import linear_cross_entropy
from unembed.training.ema import Ema
from unembed.training.objective import extend_with_end, prepare_causal, prepare_masked
from unembed.training.optimizer import Together, learning_rate, make_optimizer
from unembed.training.recipe import ObjectivePart, OptimizerPart
from unembed.training.shortlist import Shortlist
from unembed.training.step import StepLoss

CONFIG = DenoiserConfig(
    vector_dim=6, vocab_size=40, width=16, layers=1, heads=2, limit=5, causal=True, mask_id=3, eos_id=2, bos_id=1
)


# ---------------------------------------------------------------- optimizer, average


def test_weight_decay_spares_norms_biases_and_embeddings() -> None:
    """PAPER.md, mistake 8: only matrices of linear maps are decayed."""
    denoiser = Denoiser(CONFIG)
    optimizer = make_optimizer(denoiser, OptimizerPart(weight_decay=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    linear = {id(m.weight) for m in denoiser.modules() if isinstance(m, nn.Linear)}
    for name, parameter in denoiser.named_parameters():
        assert decay[id(parameter)] == (0.1 if id(parameter) in linear else 0.0), name
    assert len(linear) > 5


def test_ema_is_fp32_and_moves() -> None:
    """PAPER.md, mistake 8: an average kept in bf16 never moves at decay 0.9999."""
    model = nn.Linear(4, 4).to(torch.bfloat16)
    ema = Ema(model, 0.9999)
    assert all(v.dtype == torch.float32 for v in ema.values)
    before = ema.values[0].clone()
    with torch.no_grad():
        model.weight.add_(0.5)
    ema.update(model, 1_000_000)
    moved = (ema.values[0] - before).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.5e-4), rtol=0.05)


def test_ema_swap_is_its_own_inverse() -> None:
    """Validation borrows the average and gives the weights back bit for bit."""
    model = nn.Linear(3, 3)
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1.0)
    weight, value = model.weight.detach().clone(), ema.values[0].clone()
    ema.swap(model)
    assert torch.equal(model.weight, value)
    ema.swap(model)
    assert torch.equal(model.weight, weight)
    assert torch.equal(ema.values[0], value)


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_learning_rate_warms_up_and_ends_at_zero(decay: str) -> None:
    """Linear warm-up from the first step; zero at the horizon."""
    part = OptimizerPart(lr=1.0, warmup=10, decay=decay)
    rates = [learning_rate(part, step, step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert max(rates) <= 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0.0, abs=1e-9)


# ---------------------------------------------------------------- softmax


def test_shortlist_estimates_the_partition_function_without_bias() -> None:
    """The mean over draws of the sum of corrected exponentials is the full sum over allowed tokens."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(200, generator=g)
    allowed = torch.ones(200, dtype=torch.bool)
    allowed[:10] = False
    counts = torch.arange(200)
    shortlist = Shortlist(counts, allowed, frequent=20, sampled=40)
    targets = torch.tensor([50, 60, 60])
    estimates = []
    for _ in range(3000):
        tokens, correction, place = shortlist.draw(targets, g)
        assert len(tokens.unique()) == len(tokens)
        assert torch.equal(tokens[place[targets]], targets)
        estimates.append(float((logits[tokens] + correction).exp().sum()))
    full = float(logits[allowed].exp().sum())
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - full) < 4 * error
    assert error < 0.01 * full


def test_shortlist_never_lets_banned_tokens_win() -> None:
    """A banned id that is shown (the begin token) is in the columns, at minus infinity."""
    allowed = torch.ones(30, dtype=torch.bool)
    allowed[1] = False
    tokens, correction, place = Shortlist(torch.ones(30), allowed, 5, 5).draw(
        torch.tensor([1, 7]), torch.Generator().manual_seed(0)
    )
    assert correction[place[1]] == -torch.inf
    assert torch.isfinite(correction[tokens != 1]).all()


@pytest.mark.parametrize("gated", [False, True])
def test_linear_cross_entropy_equals_the_plain_one(gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same loss and same gradients as linear, bias, gate and F.cross_entropy, over several blocks of rows."""
    monkeypatch.setattr("unembed.training.cross_entropy._BLOCK_VALUES", 50)
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(7, 4, generator=g), torch.randn(11, 4, generator=g), torch.randn(11, generator=g)]
    gate, scores = torch.randn(7, generator=g), torch.randn(3, 11, generator=g)
    owner = torch.tensor([0, 2, 2, 1, 0, 1, 2])
    used = torch.randint(11, (7, 3), generator=g)
    targets, weights = torch.randint(11, (7,), generator=g), torch.rand(7, generator=g)
    grads = []
    losses = []
    for fused in (True, False):
        hidden, weight, bias = (t.clone().requires_grad_() for t in tensors)
        scale = gate.clone().requires_grad_()
        if fused:
            loss, _ = linear_cross_entropy(
                hidden, weight, bias, targets, weights, [(scale, scores, owner, used)] if gated else None
            )
        else:
            evidence = scores[owner].scatter(1, used, 0.0)
            logits = hidden @ weight.T + bias + (scale.unsqueeze(1) * evidence if gated else 0)
            loss = (F.cross_entropy(logits, targets, reduction="none") * weights).sum()
        (3 * loss).backward()
        losses.append(loss.detach())
        grads.append([hidden.grad, weight.grad, bias.grad, scale.grad if gated else torch.zeros(1)])
    assert torch.allclose(losses[0], losses[1], rtol=1e-5)
    for a, b in zip(*grads, strict=True):
        assert a is not None and b is not None
        assert torch.allclose(a, b, atol=1e-5)


# ---------------------------------------------------------------- batches and objective


class Texts:
    """A dataset in memory: ids are n, n, ..., so that a row tells its length."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths)

    def gather(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `ShardDataset.gather`."""
        lengths = self.lengths[index]
        ids = np.repeat(lengths[:, None], lengths.max(), axis=1)
        return ids, lengths, np.repeat(index[:, None], 3, axis=1).astype(np.float32)


def test_feed_shows_every_text_once_an_epoch_in_batches_of_one_length() -> None:
    """No padding, nothing twice, another order each epoch, the same order for the same seed."""
    rng = np.random.default_rng(0)
    data = Texts(rng.integers(1, 9, 300).tolist())
    feed = Feed(data, 16, seed=5)
    orders = []
    for epoch in range(2):
        seen: list[int] = []
        for i in range(feed.batches_per_epoch):
            ids, vectors = feed.batch(epoch * feed.batches_per_epoch + i)
            assert (ids == ids.shape[1]).all()
            assert ids.size <= 2.2 * 16 * 9
            seen += vectors[:, 0].astype(int).tolist()
        assert sorted(seen) == list(range(300))
        orders.append(seen)
    assert orders[0] != orders[1]
    again = Feed(data, 16, seed=5)
    ids, vectors = again.batch(feed.batches_per_epoch + 3)
    assert np.array_equal(vectors, feed.batch(feed.batches_per_epoch + 3)[1])


def test_padding_leaks_no_length() -> None:
    """PAPER.md, mistake 5: under canvas "eos" the end is masked and learnt like words; no canvas ends with the text."""
    ids = torch.full((64, 4), 9)
    canvas = extend_with_end(ids, 7, eos_id=2)
    rows = prepare_masked(canvas, torch.Generator().manual_seed(0), "bound")
    scored = torch.zeros(64, 7, dtype=torch.bool)
    scored[rows.owner, rows.column] = True
    assert scored[:, 4:].any(1).float().mean() > 0.5
    assert ((rows.targets == 2) == (rows.column >= 4)).all()
    step = StepLoss(Denoiser(_eos()), ObjectivePart(shortlist_frequent=0), None, torch.ones(40), "fp32")
    g = torch.Generator().manual_seed(0)
    widths = {step._canvas(torch.full((2, 3), 9), None, g).shape[1] for _ in range(100)}
    assert widths == {4, 5, 6}


def _eos() -> DenoiserConfig:
    from dataclasses import replace

    return replace(CONFIG, canvas="eos")


def test_masked_rows_have_the_bounds_weights() -> None:
    """Every masked position is scored with n/k, and nothing else is."""
    ids = torch.randint(4, 40, (50, 5))
    rows = prepare_masked(ids, torch.Generator().manual_seed(1), "bound")
    for text in range(50):
        mine = rows.owner == text
        masked = rows.states[text] == MASK
        assert int(mine.sum()) == int(masked.sum()) >= 1
        assert torch.allclose(rows.weights[mine], torch.tensor(5.0 / float(masked.sum())))
    assert torch.equal(rows.targets, ids[rows.owner, rows.column])


def test_guesses_are_marked_and_some_are_wrong() -> None:
    """Visible tokens of guessed texts carry the guess state; about the share that was asked for is replaced."""
    ids = torch.full((400, 5), 9)
    rows = prepare_masked(
        ids, torch.Generator().manual_seed(1), "flat", guess_share=1.0, guess_error=0.3, replacements=torch.tensor([8])
    )
    visible = rows.states == GUESS
    assert ((rows.states == MASK) | visible).all()
    wrong = (rows.ids != ids) & visible
    assert float(wrong.sum() / visible.sum()) == pytest.approx(0.3, abs=0.05)
    assert len(rows.owner) == ids.numel()


def test_causal_rows_see_the_tokens_before_and_learn_the_end() -> None:
    """Row i is shown token i-1, and the end token is a target once a text."""
    ids = torch.arange(4, 10).view(2, 3)
    rows = prepare_causal(ids, bos_id=1, eos_id=2)
    assert rows.ids.tolist() == [[1, 4, 5, 6], [1, 7, 8, 9]]
    assert rows.targets.tolist() == [4, 5, 6, 2, 7, 8, 9, 2]
    assert (rows.states == PREFIX).all()


@pytest.mark.parametrize("shortlist", [False, True])
@pytest.mark.parametrize("config", [CONFIG, _eos()], ids=["length", "eos"])
def test_a_step_lowers_the_loss_of_its_batch(config: DenoiserConfig, shortlist: bool) -> None:
    """Gradients point the right way, with and without the shortlist."""
    torch.manual_seed(0)
    denoiser = Denoiser(config)
    allowed = ~denoiser.banned
    part = ObjectivePart(shortlist_frequent=10 if shortlist else 0, shortlist_sampled=20)
    columns = Shortlist(torch.ones(40), allowed, 10, 20) if shortlist else None
    step = StepLoss(denoiser, part, columns, torch.ones(40), "fp32")
    optimizer = make_optimizer(denoiser, OptimizerPart(lr=1e-2))
    g = torch.Generator().manual_seed(0)
    ids, vectors = torch.randint(4, 40, (32, 4), generator=g), torch.randn(32, 6, generator=g)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(step.backward(ids, vectors, g))
        optimizer.step()
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_muon_moves_the_blocks_matrices_and_resumes() -> None:
    """Matrices inside blocks learn by Muon, everything else by AdamW; a stored state gives the same next step."""
    torch.manual_seed(0)
    part = OptimizerPart(lr=1e-2, matrices="muon", muon_lr=2e-2)
    models = [Denoiser(CONFIG), Denoiser(CONFIG)]
    models[1].load_state_dict(models[0].state_dict())
    first, second = (make_optimizer(model, part) for model in models)
    assert isinstance(first, Together)
    inside = {id(p) for p in models[0].blocks.parameters() if p.dim() == 2}
    assert {id(p) for group in first.parts[1].param_groups for p in group["params"]} == inside
    assert [group["scale"] for group in first.param_groups] == [1.0, 1.0, 2.0]

    def step(model: Denoiser, optimizer: torch.optim.Optimizer, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=g)
        optimizer.step()

    step(models[0], first, 1)
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model, optimizer in zip(models, (first, second), strict=True):
        step(model, optimizer, 2)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)
