"""The autoregressive network: causal in both ways of running it, conditioned by its prefix, kept and loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unembed.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from unembed.decoding.config import STRATEGIES, DecodeConfig
from unembed.decoding.loop import decode
from unembed.errors import InputError, RecipeError
from unembed.network.base import PREFIX
from unembed.network.config import ModelConfig, NetworkShape
from unembed.network.denoiser import Denoiser, build_network
from unembed.network.variants.autoregressive import Autoregressive
from unembed.training.losses.rows import full_columns, prepare_causal, rows_loss
from unembed.training.recipes.recipe import Recipe
from unembed.training.tasks.prepare import _build

CONFIG = ModelConfig(
    backbone="autoregressive",
    width=16,
    layers=2,
    heads=2,
    embedding_dim=12,
    prefix_tokens=3,
    vector_dim=6,
    vocab_size=24,
    max_length=7,
    causal=True,
    mask_id=4,
    eos_id=3,
    bos_id=2,
    pad_id=0,
    token_prior=True,
)


def make(prior: bool) -> Denoiser:
    denoiser = build_network(replace(CONFIG, token_prior=prior))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        if denoiser.token_prior is not None:
            codes = denoiser.token_prior.codes
            codes.copy_(torch.randint(-99, 99, codes.shape, generator=generator))
            codes[CONFIG.eos_id] = 0  # the end has no class
            denoiser.token_prior.scale.fill_(0.01)
            denoiser.token_prior.square.copy_((codes * 0.01).square().sum(1))
            denoiser.token_prior.counts.fill_(50.0)
    return denoiser.eval()


@pytest.fixture
def network() -> Denoiser:
    return make(prior=True)


def vectors(count: int) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def texts(count: int, n: int) -> torch.Tensor:
    return torch.randint(5, 24, (count, n), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("prior", [False, True])
@torch.inference_mode()
def test_token_by_token_equals_all_at_once(prior: bool) -> None:
    """The cached keys and values give what the whole forward of training gives."""
    network = make(prior)
    assert isinstance(network, Autoregressive)
    ids = texts(4, 6)
    condition = network.condition(vectors(4))
    rows = prepare_causal(ids, CONFIG.bos_id, CONFIG.eos_id)
    _, whole = rows_loss(network, condition, rows, full_columns(network, True))
    state = network.start_causal(condition)
    got = []
    for i in range(7):
        logits, state = network.next_logits(rows.ids[:, i], state)
        got.append(torch.nn.functional.cross_entropy(logits, rows.targets.view(4, 7)[:, i], reduction="none"))
    assert torch.allclose(torch.stack(got, 1), whole.view(4, 7), atol=1e-5)
    hidden = network.hidden(rows.ids, rows.states, condition, causal=True)
    assert hidden.shape == (4, 7, 16)


@torch.inference_mode()
def test_a_row_sees_the_vector_and_what_stands_before_it_only(network: Denoiser) -> None:
    ids = torch.cat((torch.full((1, 1), CONFIG.bos_id), texts(1, 5)), 1)
    other = ids.clone()
    other[0, 3] = 5 if int(ids[0, 3]) != 5 else 6
    states = torch.full_like(ids, PREFIX)
    first, second = network.condition(vectors(1)), network.condition(vectors(2)[1:])
    a = network.hidden(ids, states, first, causal=True)
    b = network.hidden(other, states, first, causal=True)
    assert torch.equal(a[:, :3], b[:, :3])
    assert not torch.allclose(a[:, 3:], b[:, 3:])
    assert not torch.allclose(a[:, 0], network.hidden(ids, states, second, causal=True)[:, 0])


def test_every_parameter_learns(network: Denoiser) -> None:
    network.train()
    ids = texts(4, 6)
    rows = prepare_causal(ids, CONFIG.bos_id, CONFIG.eos_id)
    loss, _ = rows_loss(network, network.condition(vectors(4)), rows, full_columns(network, True))
    loss.backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert all(name.startswith("length.") for name in without), without


def test_it_is_kept_and_loaded(network: Denoiser, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "kept", network, "{}", {}, {})
    loaded = load_checkpoint(tmp_path / "kept").denoiser
    assert type(loaded) is Autoregressive
    config = DecodeConfig(strategy="left-to-right", beam=4)
    before, after = (decode(d, vectors(5), config) for d in (network, loaded))
    assert [d.ids for d in before] == [d.ids for d in after]
    assert len({d.ids for d in before}) > 1  # the vector matters
    greedy = decode(network, vectors(5), DecodeConfig(strategy="left-to-right"))
    assert sum(d.log_likelihood for d in before) >= sum(d.log_likelihood for d in greedy) - 1e-4


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("left-to-right", "prior")])
def test_other_strategies_refuse_it(network: Denoiser, strategy: str) -> None:
    with pytest.raises(InputError, match=f"autoregressive, so it cannot decode by {strategy}") as error:
        decode(network, vectors(2), DecodeConfig(strategy=strategy))
    assert "left-to-right" in error.value.do


@pytest.mark.parametrize("key, value", [("prefix_tokens", 0), ("canvas", "eos"), ("time_conditioning", True)])
def test_shapes_that_it_cannot_have(key: str, value: object) -> None:
    with pytest.raises(InputError, match=key):
        NetworkShape(**{"backbone": "autoregressive", key: value})


def test_masked_rows_cannot_be_learnt() -> None:
    recipe = Recipe.from_dict({"model": {"backbone": "autoregressive"}})
    with pytest.raises(RecipeError, match=r"objective.causal_share is 0\.5"):
        _build(recipe, 6, None)  # type: ignore[arg-type]
