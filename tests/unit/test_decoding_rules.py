"""Laws of each selection and re-masking rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.helpers.tiny import some_vectors, tiny_denoiser
from unembed.decoding.config import CAUSAL_STRATEGIES, STRATEGIES, DecodeConfig
from unembed.decoding.loop import decode
from unembed.decoding.proposals import Noise, choose_tokens, vector_seeds
from unembed.decoding.strategies.remasking import by_rule, least_sure, remdm_cap, remdm_sigma, to_rate
from unembed.decoding.strategies.selection import View, by_schedule, entropy_bounded, leftmost, surest
from unembed.decoding.strategies.table import get_strategy
from unembed.diffusion.schedule import get_schedule
from unembed.errors import InputError


def view_of(masked: Tensor, step: int = 0, passes: int = 4, schedule: str = "linear", **more: object) -> View:
    generator = torch.Generator().manual_seed(3)
    options = {k: more.pop(k) for k in list(more) if k in DecodeConfig.__dataclass_fields__}
    values = {
        "free": torch.ones_like(masked),
        "fresh": torch.zeros_like(masked),
        "confidence": torch.rand(masked.shape, generator=generator),
        "entropy": torch.rand(masked.shape, generator=generator),
        "uniform": torch.rand(masked.shape, generator=generator),
        **more,
    }
    return View(
        step=step,
        passes=passes,
        masked=masked,
        schedule=get_schedule(schedule),
        config=DecodeConfig(**options),
        **values,
    )


def test_every_named_strategy_exists() -> None:
    for name in STRATEGIES:
        assert get_strategy(name).causal_draft == (name in CAUSAL_STRATEGIES)
    with pytest.raises(InputError, match="nothing"):
        get_strategy("nothing")


def test_sequential_takes_the_leftmost_ceil_n_over_p() -> None:
    draft = decode(
        tiny_denoiser(max_length=10),
        some_vectors(1),
        DecodeConfig(strategy="sequential", passes=4),
        known_lengths=torch.tensor([10]),
        trace=True,
    )[0]
    assert draft.trace is not None
    assert [s.chosen for s in draft.trace.steps] == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]


def test_leftmost_skips_what_is_given() -> None:
    masked = torch.tensor([[True, False, True, True, True, False]])
    view = view_of(masked, passes=2, free=masked)
    assert leftmost(view).tolist() == [[True, False, True, False, False, False]]


def test_surest_spreads_evenly_and_takes_the_most_confident() -> None:
    view = view_of(torch.ones(2, 10, dtype=torch.bool), passes=4)
    chosen = surest(view)
    assert chosen.sum(1).tolist() == [3, 3]
    for row in range(2):
        assert view.confidence[row][chosen[row]].min() > view.confidence[row][~chosen[row]].max()
    late = view_of(torch.ones(1, 10, dtype=torch.bool), step=3, passes=4)
    assert surest(late).all()


@pytest.mark.parametrize("bound", [0.0, 0.3, 1.0, 2.5, 100.0])
def test_adaptive_takes_the_largest_set_within_the_entropy_bound(bound: float) -> None:
    masked = torch.rand(20, 9, generator=torch.Generator().manual_seed(0)) < 0.7
    masked[:, 0] = True
    view = view_of(masked, passes=100, entropy_bound=bound)  # so many passes that one position is enough
    chosen = entropy_bounded(view)
    for row in range(20):
        entropies = sorted(view.entropy[row][masked[row]].tolist())
        size = max(k for k in range(1, len(entropies) + 1) if k == 1 or sum(entropies[: k - 1]) <= bound)
        assert sorted(view.entropy[row][chosen[row]].tolist()) == pytest.approx(entropies[:size])
    assert not (chosen & ~masked).any()


def test_adaptive_takes_enough_to_end_in_time() -> None:
    view = view_of(torch.ones(1, 9, dtype=torch.bool), step=1, passes=4, entropy_bound=0.0)
    assert entropy_bounded(view).sum() == 3


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_euler_opens_masks_with_the_probability_of_the_schedule(name: str) -> None:
    schedule = get_schedule(name)
    masked = torch.ones(200, 50, dtype=torch.bool)
    left = 1.0
    for step in range(5):
        view = view_of(masked, step=step, passes=5, schedule=name)
        share = by_schedule(view).float().mean().item()
        t, s = (torch.tensor((5 - step - i) / 5, dtype=torch.float64) for i in (0, 1))
        expected = float((schedule.alpha(s) - schedule.alpha(t)) / (1 - schedule.alpha(t)))
        assert share == pytest.approx(expected, abs=0.02)
        left *= 1 - expected
        assert left == pytest.approx(1 - float(schedule.alpha(s)), abs=1e-9)
    assert share == 1.0


def test_euler_remask_by_probability_and_by_threshold() -> None:
    masked = torch.zeros(100, 50, dtype=torch.bool)
    masked[:, 0] = True
    view = view_of(masked, step=2, strategy="euler-remask", remask=0.2)
    reopened = by_rule(view)
    assert reopened[:, 1:].float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert not reopened[:, 0].any()
    unsure = view_of(masked, step=2, strategy="euler-remask", remask=0.2, remask_rule="threshold")
    assert torch.equal(by_rule(unsure), (unsure.confidence < 0.2) & ~masked)


def test_two_stage_remasks_to_the_rate_and_draft_correct_the_least_sure() -> None:
    masked = torch.zeros(4, 10, dtype=torch.bool)
    free = torch.ones_like(masked)
    free[0, :4] = False
    view = view_of(masked, remask_rate=0.5, free=free)
    assert to_rate(view).sum(1).tolist() == [3, 5, 5, 5]
    assert not (to_rate(view) & ~free).any()
    first, last = least_sure(view), least_sure(view_of(masked, step=3, remask_rate=0.5, free=free))
    assert first.sum(1).tolist() == [3, 5, 5, 5]
    assert last.sum(1).tolist() == [1, 2, 2, 2]
    for row in range(4):
        kept = ~first[row] & free[row]
        assert view.confidence[row][first[row]].max() < view.confidence[row][kept].min()


def test_two_stage_drafts_first_and_then_reopens_once() -> None:
    denoiser = tiny_denoiser(max_length=12)
    config = DecodeConfig(strategy="two-stage", passes=9, remask_rate=0.5)
    draft = decode(denoiser, some_vectors(1), config, known_lengths=torch.tensor([12]), trace=True)[0]
    assert draft.trace is not None
    steps = draft.trace.steps
    assert [s.chosen for s in steps[:4]] == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11)]
    assert [len(s.remasked) for s in steps] == [0] * 4 + [6] + [0] * (len(steps) - 5)


def test_remdm_keeps_the_marginals_of_the_schedule() -> None:
    """2503.00307, theorem 3.1: with sigma the share of masks at time s is still 1 - alpha(s)."""
    schedule, cap = get_schedule("linear"), 0.3
    for step in range(6):
        t, s = (torch.tensor((6 - step - i) / 6, dtype=torch.float64) for i in (0, 1))
        sigma = remdm_sigma(schedule, t, s, cap)
        alpha_t, alpha_s = float(schedule.alpha(t)), float(schedule.alpha(s))
        assert 0 <= sigma <= cap and alpha_t * sigma <= 1 - alpha_s + 1e-12
        opens = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
        assert 0 <= opens <= 1 + 1e-12
        assert (1 - alpha_t) * (1 - opens) + alpha_t * sigma == pytest.approx(1 - alpha_s)
    assert sigma == 0 and opens == pytest.approx(1)


def test_remdm_spares_what_was_committed_just_now() -> None:
    masked = torch.zeros(50, 20, dtype=torch.bool)
    fresh = torch.zeros_like(masked)
    fresh[:, ::2] = True
    view = view_of(masked, step=1, passes=4, fresh=fresh, strategy="remdm", remask=1.0)
    reopened = remdm_cap(view)
    assert not reopened[:, ::2].any() and reopened[:, 1::2].any()


@pytest.mark.parametrize("entropy", [False, True])
def test_probabilities_and_entropies_are_those_of_the_softmax(entropy: bool) -> None:
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0)) * 3
    logits[:, 4] = -torch.inf
    exact = logits.double().log_softmax(-1)
    token, log_prob, spread = choose_tokens(logits.clone(), entropy=entropy)
    assert torch.equal(token, logits.argmax(-1))
    assert torch.allclose(log_prob.double(), exact.amax(-1), atol=1e-5)
    expected = -(exact.exp() * exact).nan_to_num().sum(-1) if entropy else torch.zeros(7, dtype=torch.float64)
    assert torch.allclose(spread.double(), expected, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampling_follows_the_softmax_at_the_temperature(temperature: float) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, -torch.inf]).repeat(20000, 1)
    noise = Noise([(b"x", 0, 0)], torch.device("cpu")).gumbel([0], [20000], 4)
    assert noise.dtype == torch.float64
    token, log_prob, _ = choose_tokens(logits.clone(), temperature, noise, entropy=True)
    counts = token.bincount(minlength=4) / 20000
    assert torch.allclose(counts, (logits[0] / temperature).softmax(-1), atol=0.02)
    assert counts[3] == 0
    assert torch.allclose(log_prob, logits[0].log_softmax(-1)[token], atol=1e-5)  # at temperature 1


def test_noise_of_a_draft_depends_on_its_own_key_alone() -> None:
    vectors = some_vectors(3)
    seeds = vector_seeds(vectors, 7)
    assert seeds == vector_seeds(vectors, 7) != vector_seeds(vectors, 8)
    assert len(set(seeds)) == 3
    cpu = torch.device("cpu")
    many = Noise([(seed, 5, sample) for seed in seeds for sample in (0, 1)], cpu)
    one = Noise([(seeds[1], 5, 1)], cpu)
    drawn = many.uniform(range(6), 8)
    assert torch.equal(drawn[3], one.uniform([0], 8)[0])
    assert len({tuple(row.tolist()) for row in drawn}) == 6
    assert torch.equal(many.gumbel([2, 3], [1, 2], 4)[1:], one.gumbel([0], [2], 4))
    assert not math.isnan(float(many.gumbel([0], [50], 50).sum()))
