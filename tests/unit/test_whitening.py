"""Whitening of known covariances, streaming moments, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from unembed.errors import DataError, InputError
from unembed.priors.whitening import Moments, Whitening


def skewed(rows: int, dim: int = 6, seed: int = 0) -> torch.Tensor:
    """Vectors with a known mean (all 5) and a covariance of condition number about 1e4."""
    g = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(9)))
    return 5.0 + (torch.randn(rows, dim, generator=g) * torch.logspace(-2, 0, dim)) @ turn


def moments_of(vectors: torch.Tensor, size: int = 1000) -> Moments:
    moments = Moments(vectors.shape[1])
    for part in vectors.split(size):
        moments.update(part)
    return moments


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_streaming_moments_do_not_depend_on_the_batches(size: int) -> None:
    vectors = skewed(300)
    moments = moments_of(vectors, size)
    assert moments.count == 300
    assert torch.allclose(moments.mean, vectors.double().mean(0), atol=1e-6)
    assert torch.allclose(moments.covariance, torch.cov(vectors.double().T, correction=0), atol=1e-6)


def test_a_large_common_offset_does_not_cost_precision() -> None:
    vectors = skewed(2000)
    expected = torch.cov(vectors.double().T, correction=0)
    assert torch.allclose(moments_of(vectors + 100).covariance, expected, atol=1e-4)


def test_whitening_of_a_known_covariance_gives_the_identity() -> None:
    vectors = skewed(20_000)
    whitening = Whitening.fit(moments_of(vectors), shrink=0.0, floor=0.0)
    z = whitening(vectors)
    assert z.dtype == torch.float32
    assert torch.allclose(z.mean(0), torch.zeros(6), atol=1e-3)
    assert torch.allclose(torch.cov(z.T), torch.eye(6), atol=1e-2)
    held_out = whitening(skewed(20_000, seed=1))
    assert torch.allclose(torch.cov(held_out.T), torch.eye(6), atol=0.06)


def test_a_direction_without_variance_is_not_blown_up() -> None:
    vectors = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    vectors[:, 3] = 0.25
    whitening = Whitening.fit(moments_of(vectors))
    assert bool(torch.isfinite(whitening.matrix).all())
    assert float(whitening(vectors + torch.tensor([0, 0, 0, 1e-4])).abs().max()) < 10


def test_fewer_vectors_than_dimensions_still_whiten() -> None:
    vectors = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    z = Whitening.fit(moments_of(vectors), shrink=0.1)(vectors)
    assert bool(torch.isfinite(z).all())


def test_a_new_module_is_the_identity() -> None:
    vectors = torch.randn(3, 4)
    assert torch.equal(Whitening(4)(vectors), vectors)


def test_round_trip_through_safetensors() -> None:
    whitening = Whitening.fit(moments_of(skewed(200)))
    empty = Whitening(6)
    empty.load_state_dict(load(save(whitening.state_dict())))
    vectors = skewed(4, seed=2)
    assert torch.equal(empty(vectors), whitening(vectors))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(bad: float) -> None:
    vectors = torch.zeros(3, 4)
    vectors[1, 2] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        Moments(4).update(vectors)


def test_another_dimension_is_refused() -> None:
    with pytest.raises(InputError, match="dimension 4"):
        Moments(4).update(torch.zeros(3, 5))


def test_equal_vectors_and_no_vectors_are_refused() -> None:
    with pytest.raises(DataError, match="equal"):
        Whitening.fit(moments_of(torch.ones(10, 4)))
    with pytest.raises(DataError, match="0 vectors"):
        Whitening.fit(Moments(4))
