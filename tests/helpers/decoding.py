"""A tiny denoiser with random weights, so that logits depend on the vector and on every visible token."""

from __future__ import annotations

import torch
from torch import Tensor

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
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return denoiser.eval()


def some_vectors(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))
