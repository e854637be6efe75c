"""The tiny models of the tests: a bare network, and one that belongs to an encoder, as a checkpoint.

Contents: `tiny_denoiser`, `some_vectors`, `encoder_model`, `save_tiny`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unembed.checkpoint.checkpoint import save_checkpoint
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.network.conditioning import CausalState, Condition, Reading
from unembed.network.config import ModelConfig
from unembed.network.denoiser import Denoiser

DIM = 6


class CountingDenoiser(Denoiser):
    """Counts the drafts that went through the network, one by one."""

    rows_run = 0

    def read(
        self,
        ids: Tensor,
        states: Tensor,
        condition: Condition,
        lengths: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Reading:
        self.rows_run += len(ids)
        return super().read(ids, states, condition, lengths, rows)

    def next_logits(self, last: Tensor, state: CausalState) -> tuple[Tensor, CausalState]:
        self.rows_run += len(last)
        return super().next_logits(last, state)


def _fill(denoiser: Denoiser, scale: float, seed: int) -> None:
    """Random weights everywhere, so that logits depend on the vector and on every visible token."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def tiny_denoiser(
    canvas: str = "length", max_length: int = 33, vocab: int = 24, seed: int = 0, **more: object
) -> CountingDenoiser:
    values = {"width": 8, "layers": 1, "heads": 2, "prefix_tokens": 1, "causal": True, **more}
    config = ModelConfig(
        vector_dim=DIM,
        vocab_size=vocab,
        max_length=max_length,
        canvas=canvas,
        mask_id=4,
        eos_id=3,
        bos_id=2,
        pad_id=0,
        **values,
    )
    denoiser = CountingDenoiser(config)
    _fill(denoiser, 0.5, seed)
    return denoiser.eval()


def some_vectors(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


def encoder_model(encoder: Any = "hashing:24", seed: int = 0, scale: float = 0.0, **shape: Any) -> Denoiser:
    """A network of width 16 over an encoder's tokens, as it begins, or with random weights of this scale."""
    encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json())
    values = {"width": 16, "layers": 1, "heads": 2, "max_length": 8, "causal": True, "prefix_tokens": 2, **shape}
    values |= {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in ("mask", "eos", "bos", "pad")}
    banned = torch.zeros(tokenizer.size, dtype=torch.bool)
    banned[torch.from_numpy(tokenizer.banned)] = True
    torch.manual_seed(seed)
    denoiser = Denoiser(ModelConfig(vector_dim=encoder.dimension, vocab_size=tokenizer.size, **values), banned)
    if scale:
        _fill(denoiser, scale, seed)
    return denoiser


def save_tiny(
    folder: Path,
    encoder: Any = "hashing:24",
    denoiser: Denoiser | None = None,
    recipe: dict[str, Any] | None = None,
    calibration: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
    **model: Any,
) -> Path:
    """Save a network (`encoder_model(encoder, **model)` where None) as a checkpoint of an encoder."""
    encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
    denoiser = denoiser or encoder_model(encoder, **model)
    text = Tokenizer.from_json(encoder.tokenizer_json()).to_json()
    save_checkpoint(folder, denoiser, text, encoder.identity.to_dict(), recipe or {}, calibration, notes)
    return folder
