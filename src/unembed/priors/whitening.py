"""Whitening of encoder vectors: the first thing that happens to a vector before any network or prior sees it.

What is here:
    Moments    streaming count, mean and covariance of vectors; two of them can be merged
    Whitening  z = (v - mean) W with W = C^-1/2, a module of buffers that travels inside the checkpoint

Word order lives in the small components of the vector: the bottom half of MiniLM's spectrum holds 10% of the variance
and 26% of the energy of a word swap. After whitening every direction has the same size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unembed.errors import DataError, InputError


class Moments:
    """Streaming first and second moments of vectors, in float64, in memory d x d whatever the number of vectors.

    Sums are taken around the mean of the first batch, so that a large common offset does not cost precision. They are
    on the device of the vectors; means and covariances are given on the CPU.

    Args:
        dim: dimension d of the vectors.

    Attributes:
        count: vectors seen so far.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.count = 0
        self._shift: Tensor | None = None
        self._sum = torch.zeros(dim, dtype=torch.float64)
        self._outer = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, vectors: Tensor) -> None:
        """Add vectors (B, d) of any float dtype.

        Raises:
            InputError: another dimension, or NaN or infinite values.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise InputError(
                f"Moments of dimension {self.dim} were given an array of shape {tuple(vectors.shape)}.",
                f"Give vectors of shape (rows, {self.dim}).",
            )
        if not len(vectors):
            return
        x = vectors.detach().float()
        if self._shift is None:
            self._shift = x.mean(0)
            self._sum, self._outer = self._sum.to(x.device), self._outer.to(x.device)
        x = x - self._shift
        outer = x.T @ x
        if not bool(torch.isfinite(outer.diagonal()).all()):
            raise InputError("The vectors hold NaN or infinite values.", "Remove those rows, or embed them again.")
        self.count += len(x)
        self._sum += x.sum(0, dtype=torch.float64)
        self._outer += outer.double()

    @property
    def mean(self) -> Tensor:
        """Mean (d,), float64."""
        self._require(1)
        assert self._shift is not None
        return (self._shift.double() + self._sum / self.count).cpu()

    @property
    def covariance(self) -> Tensor:
        """Covariance (d, d) with divisor n, float64."""
        self._require(2)
        centre = self._sum / self.count
        return (self._outer / self.count - torch.outer(centre, centre)).cpu()

    def _require(self, least: int) -> None:
        if self.count < least:
            raise DataError(
                f"Moments were asked for after {self.count} vectors.", f"Give at least {least} vectors first."
            )


class Whitening(nn.Module):
    """Affine map to zero mean and unit covariance; symmetric (ZCA), so that coordinates keep their meaning.

    Args:
        dim: dimension d. A new module is the identity; fill it by `fit` or `load_state_dict`.

    Attributes:
        mean: buffer (d,), in the units of the encoder's vectors.
        matrix: buffer (d, d), symmetric.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("matrix", torch.eye(dim))

    @classmethod
    def fit(cls, moments: Moments, shrink: float = 1e-3, floor: float = 1e-3) -> Whitening:
        """Whitening of the seen vectors.

        Args:
            moments: what `Moments.update` collected.
            shrink: share s of the mean variance mixed in, C' = (1 - s) C + s tr(C)/d I; keeps small samples sane.
            floor: eigenvalues of C' below `floor` times their mean are raised to it, so that directions which hold
                nothing but rounding (a vector of unit norm loses one; a projected one loses many) are not blown up.

        Raises:
            DataError: all vectors are equal.
        """
        covariance = moments.covariance
        average = float(covariance.diagonal().mean())
        if not average > 1e-12:
            raise DataError("All vectors are equal, they cannot be whitened.", "Fit on vectors of different texts.")
        eye = torch.eye(moments.dim, dtype=torch.float64)
        values, directions = torch.linalg.eigh((1.0 - shrink) * covariance + shrink * average * eye)
        inverse_root = values.clamp(min=floor * average).rsqrt()
        module = cls(moments.dim)
        module.mean.copy_(moments.mean)
        module.matrix.copy_((directions * inverse_root) @ directions.T)
        return module

    def forward(self, vectors: Tensor) -> Tensor:
        """Whiten vectors (B, d) -> (B, d), float32; the squared norm is about d."""
        return (vectors.float() - self.mean) @ self.matrix
