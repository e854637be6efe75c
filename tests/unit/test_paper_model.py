"""The network of arXiv 2602.11047: its equations line by line, its size, and time as an input of any backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.checkpoint.checkpoint import load_checkpoint, save_checkpoint
from unembed.decoding.config import STRATEGIES, DecodeConfig
from unembed.decoding.loop import decode
from unembed.diffusion.masking import draw_times, mask_by_schedule
from unembed.diffusion.schedule import SCHEDULES, get_schedule
from unembed.errors import InputError, RecipeError
from unembed.network.base import GIVEN, MASK
from unembed.network.conditioning import TimeModulation, time_of
from unembed.network.config import ModelConfig
from unembed.network.denoiser import Denoiser
from unembed.network.variants.paper import PaperBlock, PaperConditioner
from unembed.training.losses.rows import prepare_masked
from unembed.training.recipes.recipe import Recipe
from unembed.training.recipes.recipe_parts import SCHEDULE_NAMES

RECIPE = Path(__file__).parents[2] / "recipes" / "paper.toml"
V, D, LIMIT = 60, 16, 8
CONFIG = ModelConfig(
    vector_dim=D,
    vocab_size=V,
    width=32,
    layers=2,
    heads=4,
    max_length=LIMIT,
    causal=True,
    backbone="paper",
    prefix_tokens=0,
    canvas="eos",
    time_conditioning=True,
    schedule="exponential",
    mask_id=3,
    eos_id=2,
    bos_id=1,
    pad_id=0,
)


def build(config: ModelConfig = CONFIG) -> Denoiser:
    """A network in which time matters."""
    torch.manual_seed(0)
    denoiser = Denoiser(config).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return denoiser


def test_a_layer_is_the_papers_equations() -> None:
    """Equations 5 to 10 written out by hand for one layer give what the modules give."""
    torch.manual_seed(0)
    conditioner, block, time = PaperConditioner(D, 32, 1), PaperBlock(32, 4, 64).eval(), TimeModulation(1, 4, 32)
    torch.nn.init.normal_(time.map.weight)
    e, t, h = torch.randn(3, D), torch.rand(3), torch.randn(3, 5, 32)
    out, _ = block(h, (conditioner(e)[0] + time(t))[:, 0])
    c = F.linear(F.gelu(F.linear(e, conditioner.up.weight, conditioner.up.bias)), *conditioner.down.parameters())
    linear = conditioner.maps[0]
    gamma_c = F.linear(c, linear.weight, linear.bias).view(3, 4, 32)
    gamma_t = (t.unsqueeze(1) * time.map.weight.T + time.map.bias).view(3, 4, 32)
    gain_a, shift_a, gain_m, shift_m = (gamma_t + gamma_c).unbind(1)

    def norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return gain[:, None] * (x - mean) / (variance + 1e-5).sqrt() + shift[:, None]

    queries, keys, values = block.attention.qkv(norm(h, gain_a, shift_a)).view(3, 5, 3, 4, 8).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).reshape(3, 5, 32)
    middle = h + block.attention.out(mixed)
    expected = middle + block.down(F.gelu(block.up(norm(middle, gain_m, shift_m))))
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)


def test_a_new_layer_is_a_plain_one() -> None:
    """Gains near 1, shifts near 0: the vector enters as it is learnt."""
    modulation = PaperConditioner(D, 32, 2)(torch.zeros(4, D))[0]
    assert (modulation[:, :, ::2] - 1).abs().max() < 0.2
    assert modulation[:, :, 1::2].abs().max() < 0.2


@pytest.mark.parametrize("dim", [1024, 768])
def test_the_papers_network_has_78_million_parameters_without_its_vocabulary(dim: int) -> None:
    """Layers, projection and modulation by hand; on the meta device, so that no memory is taken."""
    recipe = Recipe.load(RECIPE)
    shape = {k: v for k, v in vars(recipe.model).items() if not k.startswith("init_")}
    with torch.device("meta"):
        denoiser = Denoiser(ModelConfig(vector_dim=dim, vocab_size=50261, max_length=recipe.data.max_length, **shape))
    counts = denoiser.parameter_counts()
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768
    maps = 4 * 768 * (768 + 1) + 4 * 768 * 2  # of the vector, of the time
    rest = dim * 768 + 768 + 768 * 769 + 768 * 769 + 33 * 768 + 4 * 768  # projection, head, positions, states
    assert counts["blocks"] == 8 * layer
    assert counts["without_vocabulary"] == 8 * (layer + maps) + rest
    assert counts["without_vocabulary"] == pytest.approx(78e6, rel=0.01)
    assert counts["vocabulary"] == 50261 * 769


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_is_the_inverse_of_alpha(name: str) -> None:
    schedule = get_schedule(name)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.alpha(t)), t, atol=1e-6, rtol=0)
    assert float(schedule.time(0.0)) == 1.0 and float(schedule.time(1.0)) == 0.0


def test_recipes_know_the_schedules() -> None:
    assert tuple(SCHEDULES) == SCHEDULE_NAMES


def test_times_are_stratified_and_uniform() -> None:
    """Each batch covers (0, 1] evenly, and a row's own time is uniform whatever its place."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([draw_times(20, generator) for _ in range(2000)])
    assert torch.equal((draws * 20).ceil().long().sort(1).values, torch.arange(1, 21).expand(2000, 20))
    assert float(draws.min()) > 0 and float(draws.max()) <= 1
    first = draws[:, 0].sort().values
    expected = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    assert (first - expected).abs().max() < 1.63 / 2000**0.5  # Kolmogorov-Smirnov at 1%


@pytest.mark.parametrize("name", SCHEDULES)
def test_masks_of_times_weighted_by_the_schedule_count_each_token_alike(name: str) -> None:
    """E[weight x masked] is 1 - alpha(1) for each token: 1 for a valid schedule; the printed pair gives 2.2."""
    schedule = get_schedule(name)
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((40_000, 6), 5)
    rows = prepare_masked(ids, generator, "bound", schedule=schedule)
    assert rows.time is not None and rows.scale == ids.numel()
    share = float(rows.weights.sum()) / ids.numel()
    assert share == pytest.approx(1 - float(schedule.alpha(1.0)), rel=0.03)
    assert float(rows.normalised(1.0).sum()) == pytest.approx(share)
    if name == "exponential":
        printed = prepare_masked(ids, generator, "printed", schedule=schedule)
        assert torch.allclose(printed.weights, 1 / printed.time[printed.owner])
        assert float(printed.weights.sum()) / ids.numel() == pytest.approx(2.19, rel=0.03)


def test_masks_are_those_of_the_schedule() -> None:
    """The share of masks of each row is near 1 - alpha(t)."""
    schedule = get_schedule("exponential")
    ids = torch.full((64, 4000), 5)
    rows = prepare_masked(ids, torch.Generator().manual_seed(0), "bound", schedule=schedule)
    assert rows.time is not None
    share = (rows.states == MASK).float().mean(1)
    assert (share - (1 - schedule.alpha(rows.time))).abs().max() < 0.04
    assert (time_of(rows.states == MASK, None, schedule) - rows.time).abs().max() < 0.6
    lengths = torch.full((64,), 1000)
    assert not mask_by_schedule(lengths, 4000, rows.time, schedule, torch.Generator())[:, 1000:].any()


def test_time_is_read_off_the_canvas_and_padding_does_not_count() -> None:
    masked = torch.tensor([[True, True, False, False], [True, False, True, True]])
    assert time_of(masked, None, get_schedule("linear")).tolist() == [0.5, 0.75]
    assert time_of(masked, torch.tensor([2, 2]), get_schedule("linear")).tolist() == [1.0, 0.5]
    full = time_of(torch.ones(1, 4, dtype=torch.bool), None, get_schedule("exponential"))
    assert full.tolist() == [1.0]


@pytest.mark.parametrize("backbone", ["paper", "adaln-zero"])
def test_time_is_an_input_of_every_backbone(backbone: str) -> None:
    """Another time gives other rows; without one, the time of the share of masks is taken; it is off by default."""
    config = replace(CONFIG, backbone=backbone, schedule="linear")
    denoiser = build(config)
    ids = torch.randint(4, V, (2, LIMIT))
    states = torch.full_like(ids, GIVEN)
    states[:, : LIMIT // 2] = MASK
    condition = denoiser.condition(torch.randn(2, D))
    half, tenth = (denoiser.hidden(ids, states, condition, time=torch.full((2,), t)) for t in (0.5, 0.1))
    assert torch.equal(half, denoiser.hidden(ids, states, condition))
    assert (half - tenth).abs().max() > 1e-3
    fresh = Denoiser(config).eval()  # the map of time starts at zero
    same = [fresh.hidden(ids, states, condition, time=torch.full((2,), t)) for t in (0.5, 0.1)]
    assert torch.equal(*same)
    plain = Denoiser(replace(config, time_conditioning=False))
    assert not any(name.startswith("time.") for name in plain.state_dict())


@pytest.mark.parametrize("canvas", ["eos", "length"])
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "prior"])  # it has no closed-form prior
def test_every_strategy_decodes_with_it(strategy: str, canvas: str) -> None:
    drafts = decode(build(replace(CONFIG, canvas=canvas)), torch.randn(3, D), DecodeConfig(strategy, passes=3))
    assert all(1 <= len(d.ids) <= LIMIT and CONFIG.mask_id not in d.ids for d in drafts)


def test_a_checkpoint_brings_it_back(tmp_path: Path) -> None:
    denoiser = build()
    save_checkpoint(tmp_path / "c", denoiser, "{}", {}, {})
    back = load_checkpoint(tmp_path / "c").denoiser
    assert back.config == denoiser.config
    vectors, ids = torch.randn(2, D), torch.randint(4, V, (2, 5))
    states = torch.tensor([[MASK, GIVEN, MASK, GIVEN, MASK]] * 2)
    expected = denoiser.logits(ids, states, denoiser.condition(vectors))
    assert torch.equal(back.logits(ids, states, back.condition(vectors)), expected)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(InputError, match="prefix tokens"):
        replace(CONFIG, prefix_tokens=2)
    with pytest.raises(RecipeError, match="draws no t"):
        Recipe.load(RECIPE, ["objective.masking=count"])
    with pytest.raises(RecipeError, match="exponential"):
        Recipe.load(RECIPE, ["objective.schedule=log"])


def test_time_conditioning_decodes_in_bfloat16() -> None:
    """The map of the time keeps its own arithmetic where the other matrices were lowered."""
    from unembed.network.conditioning import TimeModulation

    time = TimeModulation(2, 4, 8)
    torch.nn.init.normal_(time.map.weight)
    t = torch.tensor([0.0, 0.25, 1.0])
    before = time(t)
    time.map.to(torch.bfloat16)
    after = time(t)
    assert after.dtype == torch.float32
    torch.testing.assert_close(before, after, atol=0.05, rtol=0.02)
