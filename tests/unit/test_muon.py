"""Muon: singular values near one, updates of AdamW's size, queries, keys and values apart, a state that goes on."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from unembed.network.block import Attention
from unembed.network.config import ModelConfig
from unembed.network.denoiser import Denoiser
from unembed.training.optimizer import CombinedOptimizer, Muon, make_optimizer, orthogonalised
from unembed.training.recipes.recipe_parts import OptimizerPart

CONFIG = ModelConfig(
    vector_dim=6, vocab_size=40, width=16, layers=2, heads=2, max_length=5, causal=True, mask_id=3, eos_id=2, bos_id=1
)
SHAPES = [(96, 96), (256, 64), (64, 256), (144, 48)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """U S V' becomes about U V', whatever the spectrum was; those near nothing come half of the way at least."""
    u, _, v = torch.linalg.svd(noise(2, *shape), full_matrices=False)
    spectrum = torch.logspace(0, -1.5, min(shape)).expand(2, -1) * torch.tensor([[3e4], [1e-4]])
    out = orthogonalised(u * spectrum.unsqueeze(1) @ v, dtype).float()
    assert out.shape == (2, *shape)
    inside = u.transpose(1, 2) @ out @ v.transpose(1, 2)  # (2, r, r): diagonal where the directions are kept
    values = inside.diagonal(dim1=1, dim2=2)
    assert 0.6 < float(values.min()) and float(values.max()) < 1.25
    assert float((inside - torch.diag_embed(values)).abs().max()) < (0.01 if dtype == torch.float32 else 0.1)
    assert torch.isfinite(orthogonalised(torch.zeros(1, 4, 8), dtype)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_updates_have_the_size_of_adamws(shape: tuple[int, int]) -> None:
    """2502.16982, equation 4: an RMS of 0.2 lr for every shape, which is what AdamW's updates have in training."""
    rates = {}
    for name in ("muon", "adamw"):
        weight = nn.Parameter(torch.zeros(shape))
        kind = Muon([weight], lr=1e-2) if name == "muon" else torch.optim.AdamW([weight], lr=1e-2, betas=(0.9, 0.98))
        moved = []
        for step in range(60):
            before = weight.detach().clone()
            weight.grad = noise(*shape, seed=step) * 1e-3  # gradients that agree in nothing: a late phase of training
            kind.step()
            moved.append(float((weight.detach() - before).square().mean().sqrt()) / 1e-2)
        rates[name] = sum(moved[-20:]) / 20
    assert rates["muon"] == pytest.approx(0.2, rel=0.15)
    assert rates["muon"] == pytest.approx(rates["adamw"], rel=0.35)


def test_queries_keys_and_values_are_orthogonal_each_on_its_own() -> None:
    """Values have by far the largest gradient; the update of queries and keys is as large as theirs all the same."""
    torch.manual_seed(0)
    attention = Attention(48, 4)
    weight = attention.qkv.weight
    before = weight.detach().clone()
    weight.grad = noise(144, 48) * torch.tensor([1e-3, 1e-3, 1.0]).repeat_interleave(48).unsqueeze(1)
    Muon([{"params": [weight], "pieces": 3}], lr=1.0).step()
    sizes = (weight - before).detach().view(3, -1).square().mean(1).sqrt()
    assert torch.allclose(sizes, torch.full((3,), 0.2), rtol=0.15)
    for piece in (weight - before).detach().view(3, 48, 48):
        values = torch.linalg.svdvals(piece) / (0.2 * 48**0.5)
        assert float(values.median()) > 0.6 and float(values.max()) < 1.25


def test_weight_decay_is_decoupled_and_a_matrix_without_gradient_stays() -> None:
    shrunk, still = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    shrunk.grad = torch.zeros(4, 4)
    Muon([shrunk, still], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(shrunk, torch.full((4, 4), 0.95))
    assert torch.equal(still, torch.ones(4, 4))


@pytest.mark.parametrize("changes", [{}, {"backbone": "paper", "prefix_tokens": 0}], ids=str)
def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else(changes: dict[str, object]) -> None:
    denoiser = Denoiser(dataclasses.replace(CONFIG, **changes))
    optimizer = make_optimizer(denoiser, OptimizerPart(matrices="muon"))
    assert isinstance(optimizer, CombinedOptimizer) and isinstance(optimizer.parts[1], Muon)
    muon = {id(p): group["pieces"] for group in optimizer.parts[1].param_groups for p in group["params"]}
    linear = {id(m.weight) for m in denoiser.blocks.modules() if isinstance(m, nn.Linear)}
    assert set(muon) == linear and len(linear) == 2 * 4
    stacked = {id(m.qkv.weight) for m in denoiser.modules() if isinstance(m, Attention)}
    assert {key for key, pieces in muon.items() if pieces == 3} == stacked and len(stacked) == 2
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in denoiser.parameters())
    assert not isinstance(make_optimizer(denoiser, OptimizerPart()), CombinedOptimizer)


def test_both_rates_follow_one_schedule_and_a_state_gives_the_same_next_step() -> None:
    """Muon's groups are scaled by muon_lr / lr; momenta and AdamW's means come back from a stored state."""
    torch.manual_seed(0)
    part = OptimizerPart(lr=1e-2, matrices="muon", muon_lr=2e-2)
    models = [Denoiser(CONFIG), Denoiser(CONFIG)]
    models[1].load_state_dict(models[0].state_dict())
    first, second = (make_optimizer(model, part) for model in models)
    assert [group["scale"] for group in first.param_groups] == [1.0, 1.0, 2.0, 2.0]

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


def test_a_step_that_is_left_out_on_the_device_moves_nothing() -> None:
    """found_inf = 1, as a fused AdamW has it: weights and momentum stay, and the next step goes on from them."""
    weight = nn.Parameter(noise(12, 4))
    muon = Muon([weight], lr=0.1, weight_decay=0.1)
    weight.grad = noise(12, 4, seed=1)
    muon.step()
    before, momentum = weight.detach().clone(), muon.state[weight]["momentum_buffer"].clone()
    weight.grad, muon.found_inf = torch.full((12, 4), torch.nan), torch.tensor(1.0)
    muon.step()
    assert torch.equal(weight, before) and torch.equal(muon.state[weight]["momentum_buffer"], momentum)
    weight.grad, muon.found_inf = noise(12, 4, seed=2), torch.tensor(0.0)
    muon.step()
    assert bool(torch.isfinite(weight).all()) and not torch.equal(weight, before)
