"""The bound, checked by enumeration on a toy vocabulary. The paper's mistakes 2 and 4."""

from __future__ import annotations

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor

from tests.helpers.tiny import some_vectors, tiny_denoiser
from unembed.diffusion.bound import bound, count_weights, per_token, subset_weights
from unembed.diffusion.schedule import SCHEDULES, get_schedule
from unembed.training.losses.rows import full_columns, masked_rows, prepare_masked, rows_loss

V, N = 3, 4
VALID = [name for name in SCHEDULES if get_schedule(name).valid]
MASKS = [torch.tensor(m) for m in itertools.product([False, True], repeat=N) if any(m)]


@pytest.fixture(scope="module")
def joint() -> Tensor:
    """A distribution over all V^N texts with strong dependence between positions."""
    logits = 2.0 * torch.randn(V**N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return logits.softmax(0).view([V] * N)


def exact_cross_entropy(joint: Tensor, text: Tensor, masked: Tensor) -> Tensor:
    """-log p(x_i | visible) for each masked i, from the joint itself; (N,), 0 where visible."""
    visible = joint[tuple(slice(None) if m else int(x) for m, x in zip(masked, text, strict=True))]
    out = torch.zeros(N, dtype=torch.float64)
    for axis, i in enumerate(masked.nonzero()[:, 0].tolist()):
        others = [a for a in range(visible.dim()) if a != axis]
        marginal = visible.sum(others) if others else visible
        out[i] = -torch.log(marginal[text[i]] / marginal.sum())
    return out


def foreign_cross_entropy(text: Tensor, masked: Tensor) -> Tensor:
    """A denoiser that is no one's conditional: any function of the visible tokens and the position."""
    seen = int((torch.where(masked, V, text) * (V + 1) ** torch.arange(N)).sum())
    return foreign_table(seen)[torch.arange(N), text] * masked


@functools.cache
def foreign_table(seen: int) -> Tensor:
    logits = torch.randn(N, V, generator=torch.Generator().manual_seed(seen), dtype=torch.float64)
    return -logits.log_softmax(1)


def enumerated(cross_entropy_of: dict[int, float]) -> float:
    """The bound by enumeration: every mask set, at the weight that k-of-n drawing gives it."""
    weights = subset_weights(N)
    return sum(float(weights[int(m.sum()) - 1]) * cross_entropy_of[i] for i, m in enumerate(MASKS))


@pytest.mark.parametrize("n", [1, 2, 5, 32])
def test_subset_weight_is_that_of_drawing_k_of_n(n: int) -> None:
    expected = [(1 / n) / math.comb(n, k) * (n / k) for k in range(1, n + 1)]
    assert subset_weights(n).tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("n", [1, 3, 6])
def test_every_valid_schedule_gives_the_same_bound(name: str, n: int) -> None:
    schedule = get_schedule(name)
    points = 40_000
    t = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    alpha, weight = schedule.alpha(t), schedule.weight(t)
    by_schedule = [float((weight * (1 - alpha) ** k * alpha ** (n - k)).mean()) for k in range(1, n + 1)]
    assert by_schedule == pytest.approx(subset_weights(n).tolist(), rel=1e-3)


def test_the_papers_pair_of_schedule_and_weight_gives_another_bound() -> None:
    schedule, points = get_schedule("exponential"), 40_000
    t = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    alpha = schedule.alpha(t)
    printed = [float(((1 / t) * (1 - alpha) ** k * alpha ** (3 - k)).mean()) for k in (1, 2, 3)]
    assert max(abs(p / w - 1) for p, w in zip(printed, subset_weights(3).tolist(), strict=True)) > 0.3


def test_bound_of_exact_conditionals_is_minus_log_p_of_each_text(joint: Tensor) -> None:
    for text in ([0, 0, 0, 0], [2, 1, 0, 1], [1, 2, 2, 0]):
        x = torch.tensor(text)
        sums = {i: float(exact_cross_entropy(joint, x, m).sum()) for i, m in enumerate(MASKS)}
        assert enumerated(sums) == pytest.approx(-math.log(float(joint[tuple(text)])), rel=1e-9)


def test_bound_of_a_wrong_denoiser_is_above_the_entropy(joint: Tensor) -> None:
    expected, entropy = 0.0, 0.0
    for text in itertools.product(range(V), repeat=N):
        x, p = torch.tensor(text), float(joint[text])
        sums = {i: float(foreign_cross_entropy(x, m).sum()) for i, m in enumerate(MASKS)}
        expected += p * enumerated(sums)
        entropy -= p * math.log(p)
    assert expected > entropy


def test_the_masks_and_weights_of_training_estimate_the_bound_without_bias() -> None:
    x = torch.tensor([2, 0, 1, 1])
    powers = 2 ** torch.arange(N)
    nats = torch.zeros(2**N, N, dtype=torch.float64)  # of each place under each mask set
    sums = {}
    for i, m in enumerate(MASKS):
        nats[int((m * powers).sum())] = foreign_cross_entropy(x, m)
        sums[i] = float(foreign_cross_entropy(x, m).sum())
    draws = 40_000
    rows = prepare_masked(x.expand(draws, N), torch.Generator().manual_seed(0), "bound")
    masked = torch.zeros(draws, N, dtype=torch.long).index_put((rows.owner, rows.column), torch.tensor(1))
    cross_entropy = nats[(masked * powers).sum(1)[rows.owner], rows.column]
    each = torch.zeros(draws, dtype=torch.float64).index_add(0, rows.owner, cross_entropy * rows.weights)
    error = float(each.std()) / draws**0.5
    assert float(bound(cross_entropy, rows.normalised(1.0))) * N == pytest.approx(enumerated(sums), abs=4 * error)


def test_the_loss_of_a_network_over_all_mask_sets_is_its_bound() -> None:
    """What training minimises, each mask set at the probability that it is drawn with: nats per token of the bound."""
    denoiser = tiny_denoiser(max_length=N, vocab=12)
    ids = torch.tensor([[5, 7, 9, 6]])
    with torch.no_grad():
        condition = denoiser.condition(some_vectors(1))
        shipped, sums = 0.0, {}
        for i, m in enumerate(MASKS):
            k = int(m.sum())
            rows = masked_rows(ids, m[None], count_weights(torch.tensor([N]), torch.tensor([k])))
            rows.weights = rows.normalised(1.0)
            loss, _ = rows_loss(denoiser, condition, rows, full_columns(denoiser, False))
            shipped += float(loss) / N / math.comb(N, k)
            scores = denoiser.logits(ids, rows.states, condition, rows=m[None]).log_softmax(-1)
            sums[i] = -float(scores.gather(1, ids[0, m, None]).sum())
    assert shipped * N == pytest.approx(enumerated(sums), rel=1e-5)


def test_bound_is_weight_times_sum_per_sample() -> None:
    # Text 0: 1 mask of 4; text 1: 3 masks of 3. Mean times mean, as released with the paper, gives something else.
    cross_entropy = torch.tensor([2.0, 1.0, 3.0, 5.0], requires_grad=True)
    weights = count_weights(torch.tensor([4, 3]), torch.tensor([1, 3]))[torch.tensor([0, 1, 1, 1])]
    assert bound(cross_entropy, weights).item() == 4 * 2.0 + (1.0 + 3.0 + 5.0)
    assert bound(cross_entropy, weights).item() != pytest.approx(float(cross_entropy.mean() * weights.mean()) * 2)
    # Per token it is over all texts, 7 tokens, no mean of means; and the gradient of each token is its weight.
    assert torch.allclose(per_token(weights), weights / 7) and torch.equal(per_token(weights, 14.0), weights / 14)
    bound(cross_entropy, per_token(weights)).backward()
    assert cross_entropy.grad is not None
    assert torch.allclose(cross_entropy.grad, weights / 7)
