"""The closed-form length head: planted lengths come back, and the probabilities are probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load, save

from tests.helpers.planted import LIMIT, VOCABULARY, planted
from unembed.priors.fit import fit_closed_form
from unembed.priors.length_prior import LengthHead


def test_planted_lengths_come_back_with_sane_probabilities() -> None:
    parts = fit_closed_form(planted(4000).batches(1000), VOCABULARY, LIMIT)
    data = planted(1000, seed=1)
    log_probs = parts.length_head.log_probs(parts.whitening(data.vectors))
    assert log_probs.shape == (1000, LIMIT)
    right = (log_probs.argmax(1) + 1 == data.lengths).float().mean()
    assert float(right) > 0.5  # 5 lengths: chance is 0.2
    nll = -log_probs.gather(1, data.lengths[:, None] - 1).mean()
    assert float(nll) < math.log(5) - 0.4
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(1000), atol=1e-5)


def test_a_length_never_seen_stays_possible_but_unlikely() -> None:
    parts = fit_closed_form(planted(2000).batches(1000), VOCABULARY, LIMIT)
    log_probs = parts.length_head.log_probs(parts.whitening(planted(100, seed=2).vectors))
    assert bool(torch.isfinite(log_probs).all())
    assert float(log_probs[:, 0].exp().max()) < 0.05


def test_two_gaussians_give_the_bayes_posterior() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (40_000,), generator=g)
    centres = torch.tensor([[0.5, 0.0], [-0.5, 0.0]])
    z = torch.randn(40_000, 2, generator=g) + centres[labels]
    sums = torch.zeros(2, 2).index_add_(0, labels, z)
    head = LengthHead.from_sums(sums, torch.bincount(labels), torch.cov(z.T, correction=0))
    at = torch.tensor([[1.0, 0.3], [0.0, -2.0], [-2.0, 0.0]])
    expected = torch.sigmoid(at[:, 0])  # log odds of equal unit Gaussians at +-1/2 are z_0
    assert head.log_probs(at)[:, 0].exp().tolist() == pytest.approx(expected.tolist(), abs=0.02)


def test_a_new_head_is_uniform_and_loads() -> None:
    head = LengthHead(3, 5)
    z = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    assert torch.allclose(head(z), torch.full((2, 5), -math.log(5)))
    sums = torch.arange(15.0).view(5, 3) - 7
    trained = LengthHead.from_sums(sums, torch.full((5,), 10), torch.eye(3))
    assert float(trained(z).std()) > 0.01
    head.load_state_dict(load(save(trained.state_dict())))
    assert torch.equal(head(z), trained(z))
