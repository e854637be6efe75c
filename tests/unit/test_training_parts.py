"""The parts of training: decay, average, shortlist, cross-entropy, feed, objective."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unembed.data.feed import Feed
from unembed.network.base import GIVEN, MASK, PREFIX
from unembed.network.config import ModelConfig
from unembed.network.denoiser import Denoiser
from unembed.training.losses.cross_entropy import Shortlist, linear_cross_entropy
from unembed.training.losses.rows import extend_with_end, full_columns, prepare_causal, prepare_masked, rows_loss
from unembed.training.optimizer import Ema, make_optimizer
from unembed.training.recipes.recipe_parts import ObjectivePart, OptimizerPart
from unembed.training.tasks.denoiser_task import StepLoss

CONFIG = ModelConfig(
    vector_dim=6, vocab_size=40, width=16, layers=1, heads=2, max_length=5, causal=True, mask_id=3, eos_id=2, bos_id=1
)


# ---------------------------------------------------------------- optimizer, average


def test_weight_decay_spares_norms_biases_and_embeddings() -> None:
    """Only matrices of linear maps are decayed."""
    denoiser = Denoiser(CONFIG)
    optimizer = make_optimizer(denoiser, OptimizerPart(weight_decay=0.1))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    linear = {id(m.weight) for m in denoiser.modules() if isinstance(m, nn.Linear)}
    for name, parameter in denoiser.named_parameters():
        assert decay[id(parameter)] == (0.1 if id(parameter) in linear else 0.0), name
    assert len(linear) > 5


def test_ema_is_fp32_and_moves() -> None:
    """An average kept in bf16 never moves at decay 0.9999."""
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
    monkeypatch.setattr("unembed.training.losses.cross_entropy._BLOCK_VALUES", 50)
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
            group = feed.at(epoch * feed.batches_per_epoch + i)
            assert (group.ids == group.ids.shape[1]).all()
            assert group.ids.size <= 2.2 * 16 * 9
            assert group.fitted is None
            seen += group.vectors[:, 0].astype(int).tolist()
        assert sorted(seen) == list(range(300))
        orders.append(seen)
    assert orders[0] != orders[1]
    again = Feed(data, 16, seed=5).at(feed.batches_per_epoch + 3)
    assert np.array_equal(again.vectors, feed.at(feed.batches_per_epoch + 3).vectors)


def test_a_feed_tells_which_texts_the_closed_form_parts_were_fitted_on() -> None:
    """By the row of the dataset, whatever rows are used and in whichever order they come."""
    data = Texts(np.random.default_rng(0).integers(1, 9, 100).tolist())
    fitted = np.arange(100) % 3 == 0
    feed = Feed(data, 16, seed=1, rows=np.arange(10, 90), fitted=fitted)
    groups = [feed.next()[0] for _ in range(feed.batches_per_epoch)]
    for group in groups:
        assert group.fitted is not None
        assert np.array_equal(group.fitted, fitted[group.vectors[:, 0].astype(int)])
    assert sum(int(group.fitted.sum()) for group in groups) == int(fitted[10:90].sum())  # type: ignore[union-attr]


def test_halved_batches_show_a_whole_epoch_and_resume() -> None:
    """After memory ran out: half the texts a batch from a new epoch on, and a restored feed goes on alike."""
    data = Texts(np.random.default_rng(0).integers(1, 9, 400).tolist())
    feed = Feed(data, 32, seed=1)
    before = max(feed.at(i).ids.size for i in range(feed.batches_per_epoch))
    feed.next()
    assert feed.halve()
    other = Feed(data, 32, seed=1)
    other.restore(feed.state())
    seen: list[int] = []
    for _ in range(feed.batches_per_epoch):
        (group,), (same,) = feed.next(), other.next()
        assert np.array_equal(group.vectors, same.vectors)
        assert group.ids.size <= 0.6 * before
        seen += group.vectors[:, 0].astype(int).tolist()
    assert sorted(seen) == list(range(400))
    assert feed.halve() and not feed.halve()  # 8 texts are the least


def test_padding_leaks_no_length() -> None:
    """Under canvas "eos" the end is masked and learnt like words; no canvas ends with the text."""
    ids = torch.full((64, 4), 9)
    canvas = extend_with_end(ids, 7, eos_id=2)
    rows = prepare_masked(canvas, torch.Generator().manual_seed(0), "bound")
    scored = torch.zeros(64, 7, dtype=torch.bool)
    scored[rows.owner, rows.column] = True
    assert scored[:, 4:].any(1).float().mean() > 0.5
    assert ((rows.targets == 2) == (rows.column >= 4)).all()
    step = StepLoss(Denoiser(_eos()), ObjectivePart(shortlist_frequent=0), None, "fp32")
    g = torch.Generator().manual_seed(0)
    widths = {step._canvas(torch.full((2, 3), 9), g).shape[1] for _ in range(100)}
    assert widths == {4, 5, 6}


def _eos() -> ModelConfig:
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
    assert ((rows.states == MASK) | (rows.states == GIVEN)).all()


def test_causal_rows_see_the_tokens_before_and_learn_the_end() -> None:
    """Row i is shown token i-1, and the end token is a target once a text."""
    ids = torch.arange(4, 10).view(2, 3)
    rows = prepare_causal(ids, bos_id=1, eos_id=2)
    assert rows.ids.tolist() == [[1, 4, 5, 6], [1, 7, 8, 9]]
    assert rows.targets.tolist() == [4, 5, 6, 2, 7, 8, 9, 2]
    assert (rows.states == PREFIX).all()


@pytest.mark.parametrize("shortlist", [False, True])
@pytest.mark.parametrize("config", [CONFIG, _eos()], ids=["length", "eos"])
def test_a_step_lowers_the_loss_of_its_batch(config: ModelConfig, shortlist: bool) -> None:
    """Gradients point the right way, with and without the shortlist."""
    torch.manual_seed(0)
    denoiser = Denoiser(config)
    allowed = ~denoiser.banned
    part = ObjectivePart(shortlist_frequent=10 if shortlist else 0, shortlist_sampled=20)
    columns = Shortlist(torch.ones(40), allowed, 10, 20) if shortlist else None
    step = StepLoss(denoiser, part, columns, "fp32")
    optimizer = make_optimizer(denoiser, OptimizerPart(lr=1e-2))
    g = torch.Generator().manual_seed(0)
    ids, vectors = torch.randint(4, 40, (32, 4), generator=g), torch.randn(32, 6, generator=g)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = step(ids, vectors, g)
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert np.mean(losses[-5:]) < 0.6 * losses[0]


def test_only_texts_that_the_prior_was_fitted_on_are_taken_out_of_it() -> None:
    """A new text is scored with the class means as they are; a fitted one as if the means had never seen it."""
    torch.manual_seed(0)
    config = replace(CONFIG, token_prior=True)
    denoiser = Denoiser(config).eval()
    prior = denoiser.token_prior
    assert prior is not None
    ids, vectors = torch.randint(4, 40, (6, 5)), torch.randn(6, 6)
    prior.codes.random_(-60, 60)
    prior.scale.fill_(0.02)
    prior.square.copy_((prior.codes * 0.02).square().sum(1))
    prior.counts.fill_(2.0)
    known = torch.tensor([True, False, True, False, False, True])
    rows, columns = prepare_causal(ids, 1, 2), full_columns(denoiser, True)
    each = {}
    for name, fitted in (("none", None), ("some", (ids, known)), ("all", (ids, torch.ones_like(known)))):
        _, losses = rows_loss(denoiser, denoiser.condition(vectors), rows, columns, fitted)
        each[name] = losses.view(6, -1)
    assert torch.equal(each["some"][~known], each["none"][~known])
    assert torch.equal(each["some"][known], each["all"][known])
    assert (each["none"] - each["all"]).abs().amax(1).min() > 1e-3
