"""The law of each training switch: dropped vectors, times, low-rank modulation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unembed.decoding.config import DecodeConfig
from unembed.decoding.loop import decode
from unembed.errors import InputError, RecipeError
from unembed.network.base import MASK
from unembed.network.config import ModelConfig
from unembed.network.denoiser import Denoiser
from unembed.training.recipes.recipe_parts import ObjectivePart
from unembed.training.tasks.denoiser_task import StepLoss

V, D = 40, 12
CONFIG = ModelConfig(
    vector_dim=D,
    vocab_size=V,
    width=16,
    layers=2,
    heads=2,
    max_length=6,
    prefix_tokens=2,
    causal=True,
    eos_id=2,
    bos_id=1,
    mask_id=3,
)


def build(**changes: object) -> Denoiser:
    """A denoiser in which the vector and the priors matter."""
    torch.manual_seed(0)
    denoiser = Denoiser(replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
        if denoiser.token_prior is not None:
            denoiser.token_prior.codes.random_(-40, 40)
            denoiser.token_prior.scale.uniform_(0.0, 0.05)
            denoiser.token_prior.counts.fill_(5.0)
    return denoiser


def step(denoiser: Denoiser, vectors: Tensor, seed: int = 0, **part: object) -> float:
    """The loss of one batch; gradients are left behind."""
    denoiser.zero_grad()
    objective = ObjectivePart(shortlist_frequent=0, **part)  # type: ignore[arg-type]
    ids = torch.randint(4, V, (len(vectors), 6), generator=torch.Generator().manual_seed(7))
    loss = StepLoss(denoiser, objective, None, "fp32")(ids, vectors, torch.Generator().manual_seed(seed))
    loss.backward()
    return float(loss.detach())


@pytest.mark.parametrize("prior", [False, True])
def test_dropped_rows_depend_on_no_vector_and_the_others_on_theirs(prior: bool) -> None:
    denoiser = build(null_vector=True, token_prior=prior)
    ids = torch.randint(4, V, (4, 6))
    states = torch.full_like(ids, MASK)
    dropped = torch.tensor([True, False, True, False])
    a, b = (denoiser.logits(ids, states, denoiser.condition(torch.randn(4, D), dropped)) for _ in range(2))
    assert torch.equal(a[0], b[0]) and torch.equal(a[0], a[2])
    assert (a[1] - b[1]).abs().nan_to_num(0).max() > 1e-3
    alone = denoiser.logits(ids[:1], states[:1], denoiser.unconditional())
    torch.testing.assert_close(alone[0], a[0])


def test_everything_dropped_learns_nothing_from_vectors() -> None:
    """The loss with share 1 is that of any other vectors, priors included, and the null vector learns.

    All but the lengths, which are learnt from every vector.
    """
    denoiser = build(null_vector=True, token_prior=True).train()
    one, other = torch.randn(8, D), torch.randn(8, D)
    losses = [step(denoiser, vectors, vector_drop=1.0, length_weight=0.0) for vectors in (one, other)]
    assert losses[0] == losses[1]
    assert denoiser.null is not None and denoiser.null.grad is not None and denoiser.null.grad.any()
    assert step(denoiser, one, vector_drop=0.5) != step(denoiser, other, vector_drop=0.5)
    assert step(denoiser, one) != step(denoiser, other)


def test_a_share_of_the_rows_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = build(null_vector=True).train()
    seen: list[Tensor] = []
    plain = Denoiser.condition

    def spy(self: Denoiser, vectors: Tensor, dropped: Tensor | None = None) -> object:
        assert dropped is not None
        seen.append(dropped)
        return plain(self, vectors, dropped)

    monkeypatch.setattr(Denoiser, "condition", spy)
    for seed in range(30):
        step(denoiser, torch.randn(64, D), seed=seed, vector_drop=0.2)
    share = float(torch.cat(seen).float().mean())
    assert share == pytest.approx(0.2, abs=4 * (0.16 / (30 * 64)) ** 0.5)


def test_guidance_goes_away_from_the_null_vector() -> None:
    """Another null vector changes guided drafts, and only those; the causal writer knows no guidance."""
    denoiser = build(null_vector=True)
    vectors = torch.randn(6, D)
    drafts = {}
    for name in ("one", "other"):
        for scale in (1.0, 4.0):
            config = DecodeConfig("adaptive", passes=4, guidance=scale)
            drafts[name, scale] = [d.token_confidence for d in decode(denoiser, vectors, config)]
        assert denoiser.null is not None
        denoiser.null.data.normal_(std=3.0)
    assert drafts["one", 1.0] == drafts["other", 1.0]
    assert drafts["one", 4.0] != drafts["other", 4.0]


def test_without_the_switch_there_is_no_null_vector_and_nothing_is_drawn() -> None:
    """The default loss is the one that a null vector that is never used gives: the random numbers are the same."""
    vectors = torch.randn(8, D)
    assert "null" not in Denoiser(CONFIG).state_dict()
    unused = build(null_vector=True)
    unused.load_state_dict(build().state_dict(), strict=False)
    assert step(build(), vectors) == step(unused, vectors)
    with pytest.raises(RecipeError, match="vector_drop"):
        ObjectivePart(vector_drop=1.5)
    with pytest.raises(InputError, match="trained without a null vector"):
        decode(build(), vectors, DecodeConfig(guidance=1.5))


def test_low_rank_modulation_has_its_rank() -> None:
    """The map from the condition to a block's modulation is affine of that rank, and smaller."""
    full, low = build(), build(adaln="factored", adaln_rank=3)
    z = torch.randn(64, D)
    modulation = low.condition(z).modulation[:, 0].flatten(1)
    values = torch.linalg.svdvals(modulation - modulation.mean(0))
    assert int((values > 1e-3 * values[0]).sum()) == 3
    counts = [d.parameter_counts()["total"] for d in (full, low)]
    assert counts[1] < counts[0]
